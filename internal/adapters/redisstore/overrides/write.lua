-- Stores entries that are newer than those of this server, and removes some. See read.lua for the Hash.
--
-- KEYS  the Hash
-- ARGV  'put', 'add' or 'drop', the most live entries, entries and bytes, then for each entry its field and value
--       put:  stores it, whatever the bounds
--       add:  stores it, unless the bounds would be exceeded by it
--       drop: removes it, if the value is exactly this one
-- reply for each entry 'ok'; 'full'; or the value that stays, '' for none
local key, op = KEYS[1], ARGV[1]
local most_live, most_entries, most_bytes = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local number, sum, live, entries, bytes = string.match(
  redis.call('HGET', key, '=') or '', '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
number, sum = tonumber(number or '0'), tonumber(sum or '0')
live, entries, bytes = tonumber(live or '0'), tonumber(entries or '0'), tonumber(bytes or '0')

-- Go's override.Entry.Hash: exact, since a double holds 53 bits.
local function hash(field, value)
  return tonumber(string.sub(redis.sha1hex(field .. '\n' .. value), 1, 12), 16)
end

-- Returns nil for a value that does not begin like ours: any entry replaces it, and the counts leave it out.
local function read(field, value)
  local version, ended = string.match(value, '^(%d+):([01]):')
  return version and {version = tonumber(version), ended = ended, hash = hash(field, value)}
end

-- Go's override.Entry.NewerThan.
local function newer(a, b)
  if a.version ~= b.version then
    return a.version > b.version
  end
  if a.ended ~= b.ended then
    return a.ended == '1'
  end
  return a.hash > b.hash
end

local function count(field, value, e, change)
  sum = (sum + change * e.hash) % 281474976710656
  entries, bytes = entries + change, bytes + change * (#field + #value)
  if e.ended == '0' then
    live = live + change
  end
end

local reply, changed = {}, false
for i = 5, #ARGV, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  local stored = redis.call('HGET', key, field)
  local old, new = stored and read(field, stored), read(field, value)
  local result = stored or ''
  local done = false
  if op == 'drop' then
    if stored == value then
      redis.call('HDEL', key, field)
      count(field, value, old, -1)
      done = true
    end
  elseif not old or newer(new, old) then
    local before = {sum, live, entries, bytes}
    if old then
      count(field, stored, old, -1)
    end
    count(field, value, new, 1)
    if op == 'add' and (live > most_live and live > before[2] or entries > most_entries and entries > before[3]
        or bytes > most_bytes and bytes > before[4]) then
      sum, live, entries, bytes = unpack(before)
      result = 'full'
    else
      redis.call('HSET', key, field, value)
      done = true
    end
  elseif stored == value then
    result = 'ok'
  end
  if done then
    result, changed, number = 'ok', true, number + 1
    redis.call('HSET', key, '#' .. string.format('%.0f', number % 1024), field)
  end
  reply[#reply + 1] = result
end
if changed then
  -- Counts that someone has edited may end below zero, which no script reads. They are corrected when the copies are compared.
  live, entries, bytes = math.max(live, 0), math.max(entries, 0), math.max(bytes, 0)
  redis.call('HSET', key, '=', string.format('%.0f %.0f %.0f %.0f %.0f', number, sum, live, entries, bytes))
end
return reply
