#!lua
-- Decides operations on bucket groups, in the order given; each is all or nothing. The first line makes a server
-- that is read-only, full or cut off from its primary refuse the script before it starts, instead of at its first
-- write: a denial writes nothing, so a stale replica would answer it.
--
-- KEYS  one Hash per group; a key may repeat, and each of its groups sees what those before it did. Field
--       b:<limit name> holds <credits>:<at_us>:<p>; what follows a further colon is ignored.
-- ARGV  version ("1"), the number of limit sets, then each set:
--         its number of limits, then each limit:
--           field, capacity (tokens), p (credits per token), r (credits per tick), q (microseconds per tick)
--       then the number of kinds, and each kind of operation that occurs:
--         op (0 take, 1 peek, 2 refund, 3 charge, 4 reset), cost (tokens), limit set (counted from 1)
--       then, if there are several kinds, the kind of each key (counted from 1)
-- reply version, now (microseconds since the epoch), then for each key:
--         verdict (0 denied, 1 allowed, 2 debt exceeded), then per limit of its set: credits and time
--         (microseconds), as they are now, after the operation
--         or, when this group failed, -1 and a message; nothing was done to it, and its neighbours are decided
--
-- The arithmetic is domain's, step by step. Every value and product stays within 2^53 in size, so doubles are
-- exact. So is floor(a / b) for whole |a| <= 2^53 and b >= 1: if n is the whole number above a / b, then
-- n - a / b >= 1 / b >= (a / b) / 2^53, more than half of the gap between the doubles there (equal to it only when
-- a / b is a power of two, which is exact), so the quotient is never rounded up to n. The same holds for ceil.
-- `%` has no such proof: it computes a - floor(a / b) * b.
--
-- A lone decision pays for all that a run sets up: each function is made anew, with all it refers to, and each
-- argument is parsed. So there are few functions, numbers stand for themselves (2^52 is 4503599627370496, 2^53 is
-- 9007199254740992), and what all groups share is sent once.

local call, match, format, unpack, tonumber = redis.call, string.match, string.format, unpack, tonumber
local floor, ceil = math.floor, math.ceil

if ARGV[1] ~= '1' then
  return redis.error_reply('ERR this script reads version 1 of its input')
end

-- %d goes through a C long. %.0f does not, but costs six times as much; `..` would drop digits.
if format('%d', 4503599627370496) ~= '4503599627370496' then
  return redis.error_reply('ERR this script needs a 64-bit server')
end

-- TIME moves while a script runs, so it is read once: all groups are decided at the same instant.
local time = call('TIME'); local now_us = time[1] * 1000000 + time[2]

local sets, at = {}, 3
for s = 1, tonumber(ARGV[2]) do
  local fields, writes = {}, {} -- the arguments of HMGET and HSET
  local set = {fields = fields, writes = writes}
  local last = at + 5 * tonumber(ARGV[at])
  local i = 1
  for a = at + 1, last, 5 do
    local field, capacity, p = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
    local r, q = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
    local debt = r * (3153600000000000 / q) -- 100 years of 365 days
    fields[i], writes[2 * i - 1] = field, field
    set[i] = {
      capacity = capacity,
      p = p,
      r = r,
      q = q,
      full = capacity * p,
      max_debt = debt < 4503599627370496 and debt or 4503599627370496, -- 2^52
      form = '%d:%d:' .. ARGV[a + 2],
    }
    i = i + 1
  end
  sets[s], at = set, last + 1
end
local kinds = {}
for k = 1, tonumber(ARGV[at]) do
  local a = at + 3 * k - 2
  kinds[k] = {op = tonumber(ARGV[a]), cost = tonumber(ARGV[a + 1]), set = sets[tonumber(ARGV[a + 2])]}
end
at = at + 3 * #kinds

-- The state of the group at hand, as it will be answered: one entry per limit.
local credits, at_us = {}, {}

-- A level in credits of another limit's token, in credits of this one's.
local function converted(limit, level, p)
  local whole = floor(level / p)
  if whole >= limit.capacity then
    return limit.full
  elseif -whole > floor(limit.max_debt / limit.p) then -- as a quotient: whole * p may pass 2^53
    return -limit.max_debt
  end
  -- floor(fraction * limit.p / p), bit by bit of limit.p: the product itself may pass 2^53.
  local fraction, rest_of_p = level - whole * p, limit.p
  local quotient, rest, bit = 0, 0, 4503599627370496
  while bit >= 1 do
    quotient, rest = quotient * 2, rest * 2
    if rest >= p then
      quotient, rest = quotient + 1, rest - p
    end
    if rest_of_p >= bit then
      rest_of_p, rest = rest_of_p - bit, rest + fraction
      if rest >= p then
        quotient, rest = quotient + 1, rest - p
      end
    end
    bit = bit / 2
  end
  return whole * limit.p + quotient
end

-- Reads the group into the state at hand, and returns whether any field was there, and whether any was ahead of now.
local function read(key, set)
  local found, ahead = false, false
  local first, values
  if #set == 1 then
    first = call('HGET', key, set.fields[1])
  else
    values = call('HMGET', key, unpack(set.fields))
  end
  for i = 1, #set do
    local limit, value = set[i], first
    if values then
      value = values[i]
    end
    local level, at = limit.full, now_us
    if value then
      found = true
      local p, rest
      level, at, p, rest = match(value, '^(-?%d+):(%d+):(%d+)(.?)')
      level, at, p = tonumber(level), tonumber(at), tonumber(p)
      if not p or (rest ~= '' and rest ~= ':') or level < -4503599627370496 or level > 4503599627370496
        or at >= 9007199254740992 or p < 1 or p > 4503599627370496 then
        error('CORRUPT field ' .. set.fields[i] .. ' does not hold a bucket', 0)
      end
      if p ~= limit.p then
        level = converted(limit, level, p)
      end
      if level > limit.full then
        level = limit.full
      elseif level < -limit.max_debt then
        level = -limit.max_debt
      end
      if at >= now_us then
        ahead = ahead or at > now_us
        at = now_us
      else
        local elapsed = floor((now_us - at) / limit.q)
        if elapsed >= ceil((limit.full - level) / limit.r) then -- before multiplying: elapsed * r may pass 2^53
          level, at = limit.full, now_us
        else
          level, at = level + elapsed * limit.r, at + elapsed * limit.q
        end
      end
    end
    credits[i], at_us[i] = level, at
  end
  return found, ahead
end

-- Stores the group. Its key expires when its last limit is full again, never earlier than it would have: another
-- node may keep more limits here. A key without an expiry counts as endless for GT, so one where we found none of
-- our fields is tried with NX first, and if that refuses, others' fields have an expiry that GT respects.
local function store(key, set, found)
  local writes, full_at_us = set.writes, 0
  for i = 1, #set do
    local limit = set[i]
    writes[2 * i] = format(limit.form, credits[i], at_us[i])
    local full = at_us[i] + ceil((limit.full - credits[i]) / limit.r) * limit.q
    if full > full_at_us then
      full_at_us = full
    end
  end
  call('HSET', key, unpack(writes))
  local expire_at_ms = format('%d', ceil(full_at_us / 1000))
  if found or call('PEXPIREAT', key, expire_at_ms, 'NX') == 0 then
    call('PEXPIREAT', key, expire_at_ms, 'GT')
  end
end

-- Carries out the group's operation, on every limit or on none, and returns the verdict.
local function decide(key, kind)
  local op, cost, set = kind.op, kind.cost, kind.set
  if op == 4 then -- reset
    call('HDEL', key, unpack(set.fields))
    for i = 1, #set do
      credits[i], at_us[i] = set[i].full, now_us
    end
    return 1
  end
  -- A bucket ahead of the clock is brought back whatever the verdict: it would starve until the clock catches up.
  local found, changed = read(key, set)
  if op == 1 or (op == 0 and cost == 0) then -- peek
    return 1
  end
  local verdict = 1
  if op == 2 then -- refund
    for i = 1, #set do
      local limit = set[i]
      if credits[i] < limit.full then
        changed = true
        if cost >= ceil((limit.full - credits[i]) / limit.p) then
          credits[i] = limit.full
        else
          credits[i] = credits[i] + cost * limit.p
        end
      end
    end
  else -- take or charge; costs are compared before they are multiplied
    for i = 1, #set do
      local limit = set[i]
      if op == 0 and (cost > limit.capacity or credits[i] < cost * limit.p) then
        verdict = 0
      elseif op == 3 and cost > floor((credits[i] + limit.max_debt) / limit.p) then
        verdict = 2
      end
    end
    if verdict == 1 then
      changed = true
      for i = 1, #set do
        credits[i] = credits[i] - cost * set[i].p
      end
    end
  end
  if changed then
    store(key, set, found)
  end
  return verdict
end

local reply, n = {1, now_us}, 3
for k = 1, #KEYS do
  local kind = kinds[1]
  if kinds[2] then
    kind = kinds[tonumber(ARGV[at + k])]
  end
  -- An error of one group must not end the script: the groups before it have been debited already.
  local ok, verdict = pcall(decide, KEYS[k], kind)
  if ok then
    reply[n] = verdict
    for i = 1, #kind.set do
      reply[n + 1], reply[n + 2] = credits[i], at_us[i]
      n = n + 2
    end
    n = n + 1
  else
    reply[n], reply[n + 1] = -1, type(verdict) == 'table' and verdict.err or tostring(verdict)
    n = n + 2
  end
end
return reply
