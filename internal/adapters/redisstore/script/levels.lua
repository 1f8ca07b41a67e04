-- Creates the functions for the levels of a group: its buckets and quotas. Takes of one of those mostly need none.
local function level_functions()
  -- Converts a level from credits of p per token to credits of this limit.
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

  -- Parses any stored value. Returns the level, its time (at most now), and whether the limit is ahead of the clock.
  local function read(limit, value)
    local quota = limit.q == 0
    local level, at, p = match(value .. ':', quota and '^(%d+):(%d+):' or '^(-?%d+):(%d+):(%d+):')
    if level then
      level, at, p = level + 0, at + 0, (p or 1) + 0
    end
    if not level or level < -4503599627370496 or level > (quota and 9007199254740991 or 4503599627370496)
      or at >= 9007199254740992 or p < 1 or p > 4503599627370496 then
      error('CORRUPT field ' .. limit.field .. ' does not hold a ' .. (quota and 'quota' or 'bucket'), 0)
    end
    if quota then
      level = limit.full - level
    elseif p ~= limit.p then
      level = converted(limit, level, p)
    end
    if level > limit.full then
      level = limit.full
    elseif level < -limit.max_debt then
      level = -limit.max_debt
    end
    return level, at < now_us and at or now_us, at > now_us
  end

  -- Deletes what is stored of the group.
  local function delete(key, kind)
    local done = redis.pcall('HDEL', key, unpack(kind.fields or {kind[1].field}))
    if type(done) == 'table' then
      delete_other_type(key, done)
    end
  end

  -- Reads the group into the reply, refilled to now; a reset deletes it first. Returns whether all its limits have the level
  -- that is needed, whether one is ahead of the clock, whether any field was found, and the cached expiry.
  local function refill(key, kind)
    local values
    if kind.op == '4' then
      delete(key, kind)
      values = {} -- and not read: the key may be gone, and while its slot moves a node refuses to read it then
    elseif kind.size == 1 then
      values = {call('HGET', key, kind[1].field)}
    else
      values = call('HMGET', key, unpack(kind.fields))
    end
    local enough, skewed, found, cached_expiry, slow = true, false, false, '0', n + kind.size
    for i = 1, kind.size do
      local limit, value = kind[i], values[i]
      local q, level, at = limit.q, limit.full, now_us
      if value then
        found = true
        local full, cached, ahead = level, nil, false
        level, at, cached = match(value, limit.fast_pattern)
        if level then
          level, at = (q == 0 and full - level or level + 0), at + 0
        end
        if not level or level > full or level < -4503599627370496 or at > now_us then
          level, at, ahead = read(limit, value)
          cached, skewed = nil, skewed or ahead
        end
        cached_expiry = cached or cached_expiry
        if q == 0 then
          if at < limit.start_us then
            level, at = full, now_us
          end
        else
          local elapsed = now_us - at
          if q > 1 then
            elapsed = floor(elapsed / q)
            at = at + elapsed * q
          end
          level = level + elapsed * limit.r
          if level >= full then
            level, at = full, now_us
          end
        end
      end
      if level < limit.least then
        enough = false
      end
      reply[n + i] = level
      if q ~= 1 then
        slow = slow + 1
        reply[slow] = at
      end
    end
    return enough, skewed, found, cached_expiry
  end

  -- Returns how many of equal operations pass one after the other, the first of which does, or would without a limit. Each
  -- takes the same from the levels in the reply, and gives back what a refund gives.
  local function passing(kind, times)
    for i = 1, kind.size do
      local limit = kind[i]
      if limit.spent > 0 then
        local most = floor((reply[n + i] - limit.least) / limit.spent) + 1
        times = most < times and most or times
      end
    end
    return times
  end

  -- Stores the group in the reply. If spends is not false, it first takes the cost so many times.
  local function store(key, kind, spends, found, cached_expiry)
    local size, writes, slow = kind.size, kind.writes or {kind[1].field}, n + kind.size
    local expiry_ms = cached_expiry + 0
    local kept, until_us = expiry_ms <= kind.farthest_ms, expiry_ms * 1000
    local full_at_us = 0
    for i = 1, size do
      local limit, level = kind[i], reply[n + i]
      local full, q, at, before = limit.full, limit.q, now_us, level
      if spends then
        level = level - limit.spent * spends
        if level > full then
          level = full
        elseif level < -limit.max_debt then -- a release and a settling are charged whatever the debt
          level = -limit.max_debt
        end
        reply[n + i] = level
      end
      if q == 1 then
        writes[2 * i] = format('%d', level) .. limit.tail
      else
        slow = slow + 1
        at = reply[slow]
        if q > 1 then
          writes[2 * i] = format('%d:%d', level, at) .. limit.tail
        else
          at = (level ~= before or spends and limit.spent > 0) and now_us or at
          reply[slow] = at
          writes[2 * i] = format('%d:%d', full - level, at)
        end
      end
      -- Will it be full when the key expires? One tick makes up for the rounding of the quotient.
      if q == 0 then
        kept = kept and (level == full or until_us >= limit.end_us)
      elseif kept and ((until_us - at) / q - 1) * limit.r < full - level then
        kept = false
      end
    end
    if not kept then
      for i = 1, size do
        local limit = kind[i]
        local missing, at = limit.full - reply[n + i], limit.end_us
        if limit.q > 0 then
          at = now_us + ceil(missing / limit.r) * limit.q
        elseif missing == 0 then
          at = now_us
        end
        if at > full_at_us then
          full_at_us = at
        end
      end
      cached_expiry = format('%d', ceil((full_at_us + kind.ttl_margin_us) / 1000))
    end
    writes[2] = writes[2] .. ':' .. cached_expiry
    if found and not kept then
      postpone(key, cached_expiry)
    end
    call('HSET', key, unpack(writes))
    if not found then
      postpone(key, cached_expiry, true, unpack(kind.fields or {kind[1].field}))
    end
  end

  return refill, passing, store
end
