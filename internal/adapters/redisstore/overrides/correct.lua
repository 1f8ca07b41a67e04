#!lua
-- Replaces the counts of the Hash, if nothing has changed since they were taken. See read.lua for the Hash.
--
-- KEYS  the Hash
-- ARGV  the number of the last change, and the right sum, live, entries and bytes
-- reply 1 if it did
local key = KEYS[1]
local number = string.match(redis.call('HGET', key, '=') or '', '^(%d+) %d+ %d+ %d+ %d+$') or '0'
if number ~= ARGV[1] then
  return 0
end
redis.call('HSET', key, '=', table.concat(ARGV, ' '))
return 1
