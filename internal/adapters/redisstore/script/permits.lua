-- Creates the functions for the concurrency limits of a group. Most runs need none.
local function permit_functions()
  local hour_us, day_us, most_removed, most_listed = 3600000000, 86400000000, 1000, 100
  local hour_start_us = floor(now_us / hour_us) * hour_us

  -- Converts a score, which another program may have written.
  local function time_of(score)
    local at = score + 0
    return at < 9007199254740992 and at or 9007199254740991
  end

  -- Reads how many permits are held and when the first expires. Permits that have expired come first in a set.
  local function read(limit)
    local set = limit.set
    local first = call('ZRANGE', set, '0', '0', 'WITHSCORES')[2]
    local held, expires, expired = 0, now_us, 0
    if first then
      held = call('ZCARD', set)
      expires = first + 0
      if expires >= 9007199254740992 then
        expires = time_of(first)
      elseif expires <= now_us then
        local all = held
        held = call('ZCOUNT', set, '(' .. now_text, '+inf')
        expired, expires = all - held, now_us
        if held > 0 then
          expires = time_of(call('ZRANGE', set, expired, expired, 'WITHSCORES')[2])
        end
      end
    end
    limit.held = held
    limit.expires = expires
    limit.expired = expired
  end

  -- Reads what the operation needs, and writes nothing. In a group that has only concurrency limits, first_set is the first
  -- one's set, and key is needed for the others. Returns whether the concurrency limits let it pass: a take if none is
  -- used up, a release if its permit is held of any, a renewal if it is held of all.
  local function check(key, first_set, kind, id)
    local op, passes = kind.op, kind.op ~= '6'
    for i = 1, #kind.permits do
      local limit = kind.permits[i]
      limit.set = i == 1 and kind.size == 0 and first_set or key .. limit.suffix
      if op == '0' then
        read(limit)
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
      else
        read(limit)
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
        limit.held, limit.expires, limit.expired = 0, now_us, 0
      else
        read(limit)
      end
    end
  end

  -- Adds the permit to a set, or gives it a new expiry. The set itself expires a day after its last lease can end. That day is
  -- an hour and more than enough, so an old set is postponed only by a renewal, and by a take unless the permit that expires
  -- first began in this hour: then another take or renewal of this hour has postponed it. It is postponed before it is
  -- written, and what was added to a new one is taken out again if that fails: no set stays without an expiry. Permits that have
  -- expired are removed last: while its slot moves, a node refuses to write to a set that was emptied.
  local function add(limit, id, renewal)
    local set, expires = limit.set, now_us + limit.lease_us
    local new = not renewal and limit.held == 0
    if not limit.expires_text then -- a number as an argument is converted each time, which costs more
      limit.expires_text, limit.deadline_ms = format('%d', expires), format('%d', ceil((expires + day_us) / 1000))
    end
    local first_us = not renewal and limit.expires - limit.lease_us
    if renewal or not new and (first_us < hour_start_us or first_us >= hour_start_us + hour_us) then
      call('PEXPIREAT', set, limit.deadline_ms)
    end
    local added = call('ZADD', set, limit.expires_text, id)
    if new then
      call('PEXPIREAT', set, limit.deadline_ms)
    end
    if renewal or added == 0 then
      read(limit)
    else
      limit.held = limit.held + 1
      limit.expires = (new or expires < limit.expires) and expires or limit.expires
    end
    if not renewal and limit.expired > 0 then
      call('ZREMRANGEBYRANK', set, 0, (limit.expired < most_removed and limit.expired or most_removed) - 1)
    end
  end

  local function add_all(kind, id, store, ...)
    for i = 1, #kind.permits do
      add(kind.permits[i], id, kind.op == '7')
    end
    if store then
      store(...)
    end
  end

  -- Adds the permit of a take or a renewal to the sets, then calls store if it is not false. If anything fails, a take holds
  -- nothing.
  local function grant(kind, id, ...)
    local ok, failure = pcall(add_all, kind, id, ...)
    if not ok then
      for i = 1, kind.op == '0' and #kind.permits or 0 do
        redis.pcall('ZREM', kind.permits[i].set, id)
      end
      error(failure, 0)
    end
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

  return {check = check, finish = finish, grant = grant, answer = answer}
end

