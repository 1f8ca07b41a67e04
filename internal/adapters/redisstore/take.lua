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
--       then for each key:
--         op (0 take, 1 peek, 2 refund, 3 charge, 4 reset), cost (tokens), its limit set (counted from 1)
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

local VERSION = '1'
local TAKE, PEEK, REFUND, CHARGE, RESET = 0, 1, 2, 3, 4
local FAILED, DENIED, ALLOWED, DEBT_EXCEEDED = -1, 0, 1, 2
local TWO_52 = 4503599627370496
local TWO_53 = 9007199254740992
local MAX_FILL_US = 3153600000000000 -- 100 years of 365 days

local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local call, match, format, unpack, tonumber = redis.call, string.match, string.format, unpack, tonumber

if ARGV[1] ~= VERSION then
  return redis.error_reply('ERR this script reads version ' .. VERSION .. ' of its input')
end

local function micros(time)
  return time[1] * 1000000 + time[2]
end

-- TIME moves while a script runs, so it is read once: all groups are decided at the same instant.
local now_us = micros(call('TIME'))

local function read_sets(position)
  local sets = {}
  local count = tonumber(ARGV[position])
  position = position + 1
  for s = 1, count do
    local set = {fields = {}}
    local limits = tonumber(ARGV[position])
    position = position + 1
    for i = 1, limits do
      local capacity, p, r, q = tonumber(ARGV[position + 1]), tonumber(ARGV[position + 2]),
        tonumber(ARGV[position + 3]), tonumber(ARGV[position + 4])
      set.fields[i] = ARGV[position]
      set[i] = {
        capacity = capacity,
        p = p,
        p_text = ':' .. ARGV[position + 2],
        r = r,
        q = q,
        full = capacity * p,
        max_debt = min(TWO_52, r * (MAX_FILL_US / q)),
      }
      position = position + 5
    end
    sets[s] = set
  end
  return sets, position
end

-- floor(a * b / c), bit by bit of b, for 0 <= a < c: the product itself may pass 2^53.
local function mul_div(a, b, c)
  local quotient, rest, bit = 0, 0, TWO_52
  while bit >= 1 do
    quotient, rest = quotient * 2, rest * 2
    if rest >= c then
      quotient, rest = quotient + 1, rest - c
    end
    if b >= bit then
      b, rest = b - bit, rest + a
      if rest >= c then
        quotient, rest = quotient + 1, rest - c
      end
    end
    bit = bit / 2
  end
  return quotient
end

local function parse(value, field)
  local credits, at_us, p, next_char = match(value, '^(-?%d+):(%d+):(%d+)(.?)')
  credits, at_us, p = tonumber(credits), tonumber(at_us), tonumber(p)
  if not p or (next_char ~= '' and next_char ~= ':')
    or credits < -TWO_52 or credits > TWO_52 or at_us >= TWO_53 or p < 1 or p > TWO_52 then
    error('CORRUPT field ' .. field .. ' does not hold a bucket', 0)
  end
  return credits, at_us, p
end

-- A stored level in the credits of the limit as it is now.
local function converted(limit, credits, p)
  if p ~= limit.p then
    local whole = floor(credits / p)
    local fraction = credits - whole * p
    if whole >= limit.capacity then
      credits = limit.full
    elseif -whole > floor(limit.max_debt / limit.p) then -- as a quotient: whole * p may pass 2^53
      credits = -limit.max_debt
    else
      credits = whole * limit.p + mul_div(fraction, limit.p, p)
    end
  end
  return max(min(credits, limit.full), -limit.max_debt)
end

-- The credits and time of a stored bucket as they are now, and whether its time was ahead of the clock.
local function seen(limit, field, value)
  local credits, at_us, p = parse(value, field)
  credits = converted(limit, credits, p)
  if at_us >= now_us then
    return credits, now_us, at_us > now_us
  end
  local elapsed = floor((now_us - at_us) / limit.q)
  if elapsed >= ceil((limit.full - credits) / limit.r) then -- before multiplying: elapsed * r may pass 2^53
    return limit.full, now_us, false
  end
  return credits + elapsed * limit.r, at_us + elapsed * limit.q, false
end

-- The state of the group at hand, as it will be answered: one entry per limit.
local credits_now, at_now_us = {}, {}

-- Stores the group. Its key expires when its last limit is full again, never earlier than it would have: another
-- node may keep more limits here. A key without an expiry counts as endless for GT, so one where we found none of
-- our fields is tried with NX first, and if that refuses, others' fields have an expiry that GT respects.
local function store(key, set, found)
  local args, full_at_us = {}, 0
  for i = 1, #set do
    local limit = set[i]
    args[2 * i - 1] = set.fields[i]
    args[2 * i] = format('%.0f:%.0f', credits_now[i], at_now_us[i]) .. limit.p_text
    local ticks = ceil((limit.full - credits_now[i]) / limit.r)
    full_at_us = max(full_at_us, at_now_us[i] + ticks * limit.q)
  end
  call('HSET', key, unpack(args))
  local expire_at_ms = format('%.0f', ceil(full_at_us / 1000))
  if found or call('PEXPIREAT', key, expire_at_ms, 'NX') == 0 then
    call('PEXPIREAT', key, expire_at_ms, 'GT')
  end
end

local function spend(set, cost)
  for i = 1, #set do
    credits_now[i] = credits_now[i] - cost * set[i].p
  end
  return ALLOWED, true
end

-- take, charge and refund change the state of the group at hand, on every limit or on none, and return the verdict
-- and whether there is something to store. Costs are compared before they are multiplied.
local function take(set, cost)
  for i = 1, #set do
    local limit = set[i]
    if cost > limit.capacity or credits_now[i] < cost * limit.p then
      return DENIED, false
    end
  end
  return spend(set, cost)
end

local function charge(set, cost)
  for i = 1, #set do
    local limit = set[i]
    if cost > floor((credits_now[i] + limit.max_debt) / limit.p) then
      return DEBT_EXCEEDED, false
    end
  end
  return spend(set, cost)
end

local function refund(set, cost)
  local rose = false
  for i = 1, #set do
    local limit = set[i]
    if credits_now[i] < limit.full then
      rose = true
      if cost >= ceil((limit.full - credits_now[i]) / limit.p) then
        credits_now[i] = limit.full
      else
        credits_now[i] = credits_now[i] + cost * limit.p
      end
    end
  end
  return ALLOWED, rose
end

local operations = {[TAKE] = take, [CHARGE] = charge, [REFUND] = refund}

-- Reads the group into the state at hand, and returns whether any field was there, and whether any was ahead of now.
local function read(key, set)
  local found, ahead = false, false
  local values = call('HMGET', key, unpack(set.fields))
  for i = 1, #set do
    if values[i] then
      local early
      credits_now[i], at_now_us[i], early = seen(set[i], set.fields[i], values[i])
      found, ahead = true, ahead or early
    else
      credits_now[i], at_now_us[i] = set[i].full, now_us
    end
  end
  return found, ahead
end

local function decide(key, op, cost, set)
  if op == RESET then
    call('HDEL', key, unpack(set.fields))
    for i = 1, #set do
      credits_now[i], at_now_us[i] = set[i].full, now_us
    end
    return ALLOWED
  end
  local found, ahead = read(key, set)
  if op == PEEK or (op == TAKE and cost == 0) then
    return ALLOWED
  end
  local verdict, changed = operations[op](set, cost)
  -- A bucket ahead of the clock is brought back whatever the verdict: it would starve until the clock catches up.
  if changed or ahead then
    store(key, set, found)
  end
  return verdict
end

local sets, position = read_sets(2)
local reply = {tonumber(VERSION), now_us}
for k = 1, #KEYS do
  local set = sets[tonumber(ARGV[position + 2])]
  -- An error of one group must not end the script: the groups before it have been debited already.
  local ok, verdict = pcall(decide, KEYS[k], tonumber(ARGV[position]), tonumber(ARGV[position + 1]), set)
  position = position + 3
  local n = #reply
  if ok then
    reply[n + 1] = verdict
    for i = 1, #set do
      reply[n + 2 * i], reply[n + 2 * i + 1] = credits_now[i], at_now_us[i]
    end
  else
    reply[n + 1] = FAILED
    reply[n + 2] = type(verdict) == 'table' and verdict.err or tostring(verdict)
  end
end
return reply
