-- Creates the functions for the concurrency limits of a group. Most runs need none.
local function permit_functions()
  local hour_us, most_removed, most_listed, most_searched = 3600000000, 1000, 100, 24
  long_id = format('%070d', 0)
  local hour_start_us = floor(now_us / hour_us) * hour_us

  -- Converts a score, which another program may have written.
  local function time_of(score)
    local at = score + 0
    return at < 9007199254740992 and at or 9007199254740991
  end

  -- Returns how many permits are held, when the first expires, and how many have expired. Those come first in a set.
  local function read(set)
    local first = call('ZRANGE', set, '0', '0', 'WITHSCORES')[2]
    if not first then
      return 0, now_us, 0
    end
    local expires, held = first + 0, call('ZCARD', set)
    if expires >= 9007199254740992 then
      expires = 9007199254740991
    elseif expires <= now_us then
      local all = held
      held = call('ZCOUNT', set, '(' .. now_text, '+inf')
      expires = held > 0 and time_of(call('ZRANGE', set, all - held, all - held, 'WITHSCORES')[2]) or now_us
      return held, expires, all - held
    end
    return held, expires, 0
  end

  -- Deletes the set of a reset if it is a key of another type. Returns whether it did.
  local function deleted(set)
    local done = redis.pcall('ZCARD', set)
    if type(done) == 'table' then
      delete_other_type(set, done)
      return true
    end
    return false
  end

  -- Reads what the operation needs, and writes nothing, except that a reset deletes sets that are keys of another type. In a
  -- group that has only concurrency limits, first_set is the first one's set, and key is needed for the others. Returns whether
  -- the concurrency limits let it pass: a take if none is used up, a release if its permit is held of any, a renewal if it is
  -- held of all.
  local function check(key, first_set, kind, id)
    local op, passes = kind.op, kind.op ~= '6'
    for i = 1, #kind.permits do
      local limit = kind.permits[i]
      limit.set = i == 1 and kind.size == 0 and first_set or key .. limit.suffix
      if op == '0' then
        limit.held, limit.expires, limit.expired = read(limit.set)
        if limit.held >= limit.size then
          passes = false
        end
      elseif op == '5' or op == '6' or op == '7' then
        local expires = call('ZSCORE', limit.set, id)
        local held = expires and expires + 0 > now_us
        limit.found = expires
        if op == '6' then
          passes = passes or held
        elseif op == '7' then
          passes = passes and held
        end
      elseif op == '4' and deleted(limit.set) then
        limit.held, limit.expires = 0, now_us -- not read: the key is gone, and while its slot moves a node refuses to
      else
        limit.held, limit.expires, limit.expired = read(limit.set)
        if op == '8' then
          limit.listed = call('ZRANGE', limit.set, limit.expired, limit.expired + most_listed - 1, 'WITHSCORES')
        end
      end
    end
    return passes
  end

  -- Ends the permit of a release or an undo. Costs are settled afterwards: if that fails, a release that is sent again must
  -- not settle twice.
  local function finish(kind, id)
    local op = kind.op
    for i = 1, (op == '5' or op == '6' or op == '7') and #kind.permits or 0 do
      local limit, last = kind.permits[i], false
      if limit.found and op ~= '7' then
        last = call('ZCARD', limit.set) == 1
        call('ZREM', limit.set, id)
      end
      if last then -- the set is gone, so a node refuses to read it while its slot moves
        limit.held, limit.expires = 0, now_us
      else
        limit.held, limit.expires = read(limit.set)
      end
    end
  end

  -- Reports whether a take gives a set of so many permits an index. Redis keeps a set of up to 128 members (zset-max-listpack-entries)
  -- in a list, which nearly every command searches from end to end, until a member is longer than 64 bytes
  -- (zset-max-listpack-value). From then on it has an index, until the set is gone. So add adds long_id, and removes it. A set that
  -- Redis loaded from a file is a list again, so this is repeated. An index takes more memory: a set that stays small needs none.
  local function needs_index(limit, held)
    return limit.size > most_searched and held % most_searched == 0 and held < 128
  end

  -- Adds the permit of a take to a set that is as read says. Returns how many are held then, and when the first expires. The set
  -- itself expires a day after its last lease can end. That day is an hour and more than enough, so an old set is postponed only
  -- by a renewal, and by a take unless the permit that expires first began in this hour: then another take or renewal of this
  -- hour has postponed it. It is postponed before it is written; a new one after that, and if that fails the permit leaves it, as
  -- after any error: no set stays without an expiry. long_id is removed after that, for if ZREM is refused nothing leaves the set.
  -- Permits that have expired are removed last: while its slot moves, a node refuses to write to a set that was emptied.
  local function add(limit, set, id, held, expires, expired)
    if held > 0 then
      local first_us = expires - limit.lease_us
      if first_us < hour_start_us or first_us >= hour_start_us + hour_us then
        call('PEXPIREAT', set, limit.deadline_ms)
      end
    end
    local index, added = needs_index(limit, held)
    if index then
      added = call('ZADD', set, '0', long_id, limit.ends_text, id) - 1
    else
      added = call('ZADD', set, limit.ends_text, id)
    end
    if held == 0 then
      call('PEXPIREAT', set, limit.deadline_ms)
      expires = limit.ends
    end
    if index then
      call('ZREM', set, long_id)
    end
    if added < 1 then
      held, expires, expired = read(set)
    else
      held = held + 1
      expires = limit.ends < expires and limit.ends or expires
    end
    if expired > 0 then
      call('ZREMRANGEBYRANK', set, 0, (expired < most_removed and expired or most_removed) - 1)
    end
    return held, expires
  end

  -- Adds the permit of a take to the sets.
  local function grant(kind, id)
    taking, taking_id = kind.permits, id
    for i = 1, #kind.permits do
      local limit = kind.permits[i]
      limit.held, limit.expires = add(limit, limit.set, id, limit.held, limit.expires, limit.expired)
    end
  end

  -- Gives the permit of a renewal a new expiry.
  local function renew(kind, id)
    for i = 1, #kind.permits do
      local limit = kind.permits[i]
      call('PEXPIREAT', limit.set, limit.deadline_ms)
      call('ZADD', limit.set, limit.ends_text, id)
      limit.held, limit.expires = read(limit.set)
    end
  end

  -- Takes a permit of the limit that is all of a kind. Returns true: unlike take_quota, it always decides.
  local function take(set, kind)
    local limit, id = kind.only, ARGV[first_id + k]
    local held, expires, expired = read(set)
    local out, i = reply, n
    out[i] = 0
    if held < limit.size then
      limit.set = set
      taking = kind.permits
      taking_id = id
      held, expires = add(limit, set, id, held, expires, expired)
      taking = nil
      out[i] = 1
    end
    out[i + 1] = held
    out[i + 2] = expires
    n = i + 3
    return true
  end

  -- Stores the states of the concurrency limits in the reply.
  local function answer(kind)
    for i = 1, #kind.permits do
      local limit = kind.permits[i]
      reply[n] = limit.held
      reply[n + 1] = limit.expires
      n = n + 2
    end
    for i = 1, kind.op == '8' and #kind.permits or 0 do
      local listed = kind.permits[i].listed
      reply[n] = #listed / 2
      for j = 1, #listed, 2 do
        reply[n + j], reply[n + j + 1] = listed[j], time_of(listed[j + 1])
      end
      n = n + 1 + #listed
    end
  end

  return {check = check, finish = finish, grant = grant, renew = renew, take = take, answer = answer}
end

