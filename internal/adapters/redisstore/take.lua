#!lua
-- Decides operations on bucket groups, in the order given; each is all or nothing. The first line makes a server
-- that is read-only, full or cut off from its primary refuse the script before it starts, instead of at its first
-- write: a denial writes nothing, so a stale replica would answer it.
--
-- KEYS  one Hash per group; a key may repeat, and each of its groups sees what those before it did. Field
--       b:<limit name> holds <credits>:<at_us>:<p>, for a group's first limit followed by :<kept_until_ms>;
--       what follows a further colon is ignored.
-- ARGV  version ("2"), the number of kinds, then each kind of operation that occurs:
--         op (0 take, 1 peek, 2 refund, 3 charge, 4 reset), cost (tokens), where in ARGV its limits begin
--       then, if there are several kinds, the kind of each key (counted from 1)
--       then the limits of each kind, once where kinds share them: their number, then each limit:
--         field, capacity (tokens), p (credits per token), r (credits per tick), q (microseconds per tick)
-- reply version, now (microseconds since the epoch), then for each key:
--         verdict (0 denied, 1 allowed, 2 debt exceeded), then the credits of each of its limits, then the time
--         (microseconds) of each whose tick is longer than 1 us (the others' is now), all after the operation
--         or, when this group failed, -1 and a message; nothing was done to it, and its neighbours are decided
--
-- The arithmetic is domain's. Every value stays within 2^53 in size, so doubles are exact. A product of whole numbers
-- that passes 2^53 is rounded, but never to below 2^53, so comparing it with a value is exact, too: it is the larger.
-- So is floor(a / b) for whole |a| <= 2^53 and b >= 1: if n is the whole number above a / b, then
-- n - a / b >= 1 / b >= (a / b) / 2^53, more than half of the gap between the doubles there (equal to it only when
-- a / b is a power of two, which is exact), so the quotient is never rounded up to n. The same holds for ceil.
-- `%` has no such proof: it computes a - floor(a / b) * b.
--
-- What costs here is each step of the interpreter, each text made and each function made, so a lone decision pays for
-- all that a run sets up. So what all groups share is worked out once, a number's text is converted by `+ 0`, which
-- costs half of tonumber, and numbers stand for themselves (2^52 is 4503599627370496, 2^53 is 9007199254740992).

local call, match, format, unpack, floor, ceil = redis.call, string.match, string.format, unpack, math.floor, math.ceil

if ARGV[1] ~= '2' then
  return redis.error_reply('ERR this script reads version 2 of its input')
end

-- TIME moves while a script runs, so it is read once: all groups are decided at the same instant.
local time = call('TIME'); local now_us = time[1] * 1000000 + time[2]

-- %d goes through a C long. %.0f does not, but costs six times as much; `..` would drop digits.
local now_text = format('%d', now_us)
if now_text + 0 ~= now_us then
  return redis.error_reply('ERR this script needs a 64-bit server')
end

-- What a kind does to one limit, whose five arguments begin at a.
local function effect(op, cost, a, first)
  local p_text = ARGV[a + 2]
  local capacity, p, r, q = ARGV[a + 1] + 0, p_text + 0, ARGV[a + 3] + 0, ARGV[a + 4] + 0
  local max_debt = r * (3153600000000000 / q) -- 100 years of 365 days
  if max_debt > 4503599627370496 then
    max_debt = 4503599627370496
  end
  local least, spent = -9007199254740992, 0 -- the level that it needs, and what it takes from it
  if op == '0' then
    spent = cost * p
    least = cost <= capacity and spent or 9007199254740992
  elseif op == '2' then
    spent = -cost * p
  elseif op == '3' then
    spent = cost * p
    least = cost <= floor(9007199254740992 / p) and spent - max_debt or 9007199254740992
  end
  return {
    field = ARGV[a],
    capacity = capacity,
    p = p,
    r = r,
    q = q,
    full = capacity * p,
    max_debt = max_debt,
    least = least,
    spent = spent,
    usual = '^(%d+):(%d+):' .. p_text .. (first and ':(%d+)$' or '$'),
    tail = (q == 1 and ':' .. now_text .. ':' or ':') .. p_text,
  }
end

local kinds, kind = ARGV[2] ~= '1' and {}, nil
for k = 1, ARGV[2] do
  local a = 3 * k
  local op, cost, start = ARGV[a], ARGV[a + 1] + 0, ARGV[a + 2] + 0
  if op == '0' and cost == 0 then
    op = '1'
  end
  kind = {op = op, size = ARGV[start] + 0, slack_us = 0, farthest_ms = 0, fields = false, writes = false}
  local fill_us = 0
  for i = 1, kind.size do
    local limit = effect(op, cost, start + 5 * i - 4, i == 1)
    kind[i] = limit
    if limit.full * limit.q > fill_us * limit.r then
      fill_us = limit.full / limit.r * limit.q
    end
  end
  if kind.size > 1 then
    kind.fields, kind.writes = {}, {} -- the arguments of HMGET and HSET
    for i = 1, kind.size do
      kind.fields[i], kind.writes[2 * i - 1] = kind[i].field, kind[i].field
    end
  end
  local slack_us = fill_us / 16
  if slack_us < 1000000 then
    slack_us = 1000000
  elseif slack_us > 60000000 then
    slack_us = 60000000
  end
  kind.slack_us, kind.farthest_ms = slack_us, (now_us + 2 * fill_us + slack_us) / 1000
  if kinds then
    kinds[k .. ''] = kind
  end
end
local kind_of = kinds and 2 + 3 * ARGV[2] -- where in ARGV the kinds of the keys stand, if they differ

-- The answer, as far as it is known: the group at hand is the k-th, and its verdict goes to n. Two places more, which
-- the first group fills, keep the table from growing for a lone one.
local reply, n, k, keys = {2, now_us, 0, 0}, 3, 1, KEYS

-- A key expires when its last limit is full again, and is given a slack of a sixteenth of its fill time, from a second
-- to a minute, so that most decisions need not put the expiry off. The expiry then in force is noted behind the
-- first limit's value, when that is as usual. It is never made to come earlier, since another node may keep more limits
-- here, so a note stays true as long as the key lives, whoever writes to it. One farther off than limits like these could
-- need is not believed. A key that lost its expiry (PERSIST, RESTORE) is given one again when its note is too early.
--
-- GT takes a key without an expiry for endless and leaves it so. Where we found none of our fields NX is tried first:
-- the key is new, or others' fields have an expiry that GT respects.
--
-- A user who may not set an expiry must not be debited and refused. So a key that is there is put off before it is
-- written; from one that is new, with the fields that follow, what was written is taken away again.
local function put_off(key, note, new, ...)
  local done = redis.pcall('PEXPIREAT', key, note, new and 'NX' or 'GT')
  if done == 0 then
    call('PEXPIREAT', key, note, new and 'GT' or 'NX')
  elseif done ~= 1 then
    if new then
      call('HDEL', key, ...)
    end
    error(done.err, 0)
  end
end

-- Makes the function that decides a group of any kind, which most runs do not need: each function costs a run as much
-- as a command's text.
local function general()
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

  -- Reads any value: the level, its time (at most now), and whether the bucket is ahead of the clock.
  local function read(limit, value)
    local level, at, p = match(value .. ':', '^(-?%d+):(%d+):(%d+):')
    if level then
      level, at, p = level + 0, at + 0, p + 0
    end
    if not level or level < -4503599627370496 or level > 4503599627370496
      or at >= 9007199254740992 or p < 1 or p > 4503599627370496 then
      error('CORRUPT field ' .. limit.field .. ' does not hold a bucket', 0)
    end
    if p ~= limit.p then
      level = converted(limit, level, p)
    end
    if level > limit.full then
      level = limit.full
    elseif level < -limit.max_debt then
      level = -limit.max_debt
    end
    return level, at < now_us and at or now_us, at > now_us
  end

  -- Reads the group into the reply, refilled to now. Returns whether all its limits have the level that is needed, whether
  -- one is ahead of the clock, whether any was there, and the note.
  local function refill(key, kind)
    local values
    if kind.size == 1 then
      values = {call('HGET', key, kind[1].field)}
    else
      values = call('HMGET', key, unpack(kind.fields))
    end
    local enough, skewed, found, note, slow = true, false, false, '0', n + kind.size
    for i = 1, kind.size do
      local limit, value = kind[i], values[i]
      local level, at = limit.full, now_us
      if value then
        found = true
        local full, noted, ahead = level, nil, false
        level, at, noted = match(value, limit.usual)
        if level then
          level, at = level + 0, at + 0
        end
        if not level or level > full or at > now_us then
          level, at, ahead = read(limit, value)
          noted, skewed = nil, skewed or ahead
        end
        note = noted or note
        local elapsed = now_us - at
        if limit.q > 1 then
          elapsed = floor(elapsed / limit.q)
          at = at + elapsed * limit.q
        end
        level = level + elapsed * limit.r
        if level >= full then
          level, at = full, now_us
        end
      end
      if level < limit.least then
        enough = false
      end
      reply[n + i] = level
      if limit.q > 1 then
        slow = slow + 1
        reply[slow] = at
      end
    end
    return enough, skewed, found, note
  end

  -- Takes from the group in the reply what the kind spends, if it is to, and stores it.
  local function store(key, kind, spends, found, note)
    local size, writes, slow = kind.size, kind.writes or {kind[1].field}, n + kind.size
    local kept, until_us = note + 0 <= kind.farthest_ms, note * 1000
    local full_at_us = 0
    for i = 1, size do
      local limit, level = kind[i], reply[n + i]
      local full, q, at = limit.full, limit.q, now_us
      if spends then
        level = level - limit.spent
        if level > full then
          level = full
        end
        reply[n + i] = level
      end
      if q == 1 then
        writes[2 * i] = format('%d', level) .. limit.tail
      else
        slow = slow + 1
        at = reply[slow]
        writes[2 * i] = format('%d:%d', level, at) .. limit.tail
      end
      -- Is it full when the key expires, with a tick to spare for what the quotient drops?
      if kept and ((until_us - at) / q - 1) * limit.r < full - level then
        kept = false
      end
    end
    if not kept then
      for i = 1, size do
        local limit = kind[i]
        local at = now_us + ceil((limit.full - reply[n + i]) / limit.r) * limit.q
        if at > full_at_us then
          full_at_us = at
        end
      end
      note = format('%d', ceil((full_at_us + kind.slack_us) / 1000))
    end
    writes[2] = writes[2] .. ':' .. note
    if found and not kept then
      put_off(key, note)
    end
    call('HSET', key, unpack(writes))
    if not found then
      put_off(key, note, true, unpack(kind.fields or {kind[1].field}))
    end
  end

  -- Decides a group of any kind into the reply.
  local function decide(key, kind)
    local op, size = kind.op, kind.size
    local verdict, full = 1, true
    if op == '4' then
      call('HDEL', key, unpack(kind.fields or {kind[1].field}))
    end
    local enough, skewed, found, note = refill(key, kind)
    if op == '2' then
      for i = 1, size do
        full = full and reply[n + i] == kind[i].full
      end
    end
    if not enough then
      verdict = op == '3' and 2 or 0
    end
    -- A bucket ahead of the clock is brought back whatever the verdict: it would starve until the clock catches up.
    local spends = enough and (op == '0' or op == '3' or not full)
    if spends or (skewed and op ~= '1') then
      store(key, kind, spends, found, note)
    end
    reply[n] = verdict
    n = n + 1 + size
    for i = 1, size do
      if kind[i].q > 1 then
        n = n + 1
      end
    end
  end

  return decide
end

local decide

-- Decides from the k-th group on. The case that most decisions are is done here in few steps, and in the steps of
-- decide when it turns out to be another: a take by one limit in ticks of 1 us from a bucket that is new, or was stored
-- by the same limit.
local function decide_all()
  local loaded, usual, field, full, r, least, spent, pattern, tail
  while keys[k] do
    local key = keys[k]
    if kind_of then
      kind = kinds[ARGV[kind_of + k]]
    end
    if kind ~= loaded then
      local limit = kind[1]
      loaded, usual = kind, kind.op == '0' and kind.size == 1 and limit.q == 1
      field, full, r, least, spent = limit.field, limit.full, limit.r, limit.least, limit.spent
      pattern, tail = limit.usual, limit.tail .. ':'
    end
    local found = usual and call('HGET', key, field)
    local level, at, note = full, now_us, '0'
    if found then
      level, at, note = match(found, pattern)
      level = level and level + 0
    end
    local elapsed = level and now_us - at
    if not usual or not level or level > full or elapsed < 0 then
      decide = decide or general()
      decide(key, kind)
    else
      local verdict = 0
      level = level + elapsed * r
      if level > full then
        level = full
      end
      if level >= least then
        verdict, level = 1, level - spent
        local kept = (note * 1000 - now_us) * r >= full - level and note + 0 <= kind.farthest_ms
        if not kept then
          note = format('%d', ceil((now_us + ceil((full - level) / r) + kind.slack_us) / 1000))
          if found then
            put_off(key, note)
          end
        end
        call('HSET', key, field, format('%d', level) .. tail .. note)
        if not found then
          put_off(key, note, true, field)
        end
      end
      reply[n], reply[n + 1] = verdict, level
      n = n + 2
    end
    k = k + 1
  end
end

-- An error of one group must not end the script: the groups before it have been debited already.
while keys[k] do
  local ok, failure = pcall(decide_all)
  if not ok then
    reply[n], reply[n + 1] = -1, type(failure) == 'table' and failure.err or tostring(failure)
    n, k = n + 2, k + 1
    for i = #reply, n, -1 do
      reply[i] = nil -- what the group left before it failed
    end
  end
end
return reply
