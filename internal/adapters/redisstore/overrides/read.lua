#!lua flags=no-writes
-- Returns what has changed in the overrides of this server.
--
-- The Hash has a field for each entry: the name is the entry's key, the value its text, as Go's override.Entry.Text writes it.
-- Field '=' is "<number> <sum> <live> <entries> <bytes>": the number of the last change on this server, and override.Stats of its
-- entries. Fields '#0' to '#1023' are the names of the fields that changed last, each by the change's number modulo 1024.
--
-- KEYS  the Hash
-- ARGV  the number of the last change that the caller knows, the most changes to return, a field or ''
-- reply the time in us, number, sum, live, entries, bytes, the value of that field or '', the number of the last change in this
--       reply or -1 if those after the caller's are not known one by one, and for each change its field and value, '' for none
local key, after, most = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local meta = redis.call('HGET', key, '=') or '0 0 0 0 0'
local number, sum, live, entries, bytes = string.match(meta, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
local last = tonumber(number or '0')
local value = ''
if ARGV[3] ~= '' then
  value = redis.call('HGET', key, ARGV[3]) or ''
end
local reply = {
  string.format('%.0f', time[1] * 1000000 + time[2]), number or '0', sum or '0', live or '0', entries or '0', bytes or '0', value, '-1',
}
if after > last or last - after > 1024 then
  return reply
end
local to = math.min(last, after + most)
reply[8] = string.format('%.0f', to)
for n = after + 1, to do
  local field = redis.call('HGET', key, '#' .. string.format('%.0f', n % 1024))
  if not field then
    reply[8] = '-1'
    return reply
  end
  reply[#reply + 1] = field
  reply[#reply + 1] = redis.call('HGET', key, field) or ''
end
return reply
