-- Creates the function that decides a group of any kind. Most runs do not need it, and creating functions takes time.
local function general()
  local first_id -- the offset in ARGV of the IDs of permits; nil if no kind so far has a concurrency limit

  -- Deletes a key of another type in a reset. failed is the error of the command that found it; any other error is raised again.
  local function delete_other_type(key, failed)
    if not match(failed.err, '^WRONGTYPE') then
      error(failed.err, 0)
    end
    call('PEXPIREAT', key, 0) -- deletes a key of any type, and needs no permission that other operations do not
  end

-- kinds.lua
-- levels.lua
-- permits.lua
  local kinds = {[3] = false} -- what described returned, by where in ARGV the kind is described; the first is at 3
  local permits -- what permit_functions returns
  local refill, passing, store -- what level_functions returns

  -- Takes from the quota that is all of a kind, if it is new or was stored by such a take. Returns whether it was.
  local function take_quota(key, kind)
    local limit = kind.only
    local field, full, end_us = limit.field, limit.full, limit.end_us
    local found = call('HGET', key, field)
    local left, at, cached_expiry = full, now_us, '0'
    if found then
      left, at, cached_expiry = match(found, limit.fast_pattern)
      if not left then
        return false
      end
      left = full - left
      at = at + 0
      if at > now_us or left < -4503599627370496 then
        return false
      elseif at < limit.start_us then
        left, at = full, now_us
      end
    end
    local verdict = 0
    if left >= limit.least then
      verdict = 1
      left = left - limit.spent
      at = now_us
      local expiry_ms = cached_expiry + 0
      if expiry_ms * 1000 < end_us or expiry_ms > kind.farthest_ms then
        cached_expiry = format('%d', ceil((end_us + kind.ttl_margin_us) / 1000))
        if found then
          postpone(key, cached_expiry)
        end
      end
      call('HSET', key, field, format('%d', full - left) .. limit.tail .. cached_expiry)
      if not found then
        postpone(key, cached_expiry, true, field)
      end
    end
    local out, i = reply, n
    out[i] = verdict
    out[i + 1] = left
    out[i + 2] = at
    n = i + 3
    return true
  end

  -- Decides a group of the current kind, whatever that is, into the reply.
  local function decide(key)
    local kind, set = kinds[kind_at], key
    if not kind then
      kind = described(kind_at)
      kinds[kind_at] = kind
      permits = permits or kind.permits and permit_functions()
      kind.take = kind.only and (kind.permits and permits.take or take_quota)
    end
    if kind.take and not refused and not times and kind.take(key, kind) then
      return
    end
    if kind.size == 0 and (refused or kind.permits[2]) then
      key = string.sub(key, 1, -#kind.permits[1].suffix - 1)
    end
    if refused and (kind.wrong or refused[key]) then
      refused[key] = true
      reply[n], reply[n + 1], n = 3, nil, n + 1 -- for nil: the table begins with zeros
      return
    end
    local op, size, held = kind.op, kind.size, kind.permits
    local id = held and ARGV[first_id + k]
    local enough = op ~= '6' -- without permits there is none to release
    if held then
      enough = permits.check(key, set, kind, id)
    end
    local width = size -- of the group's credits and times in the reply
    local passed, spends, writes, found, cached_expiry, before = 1, nil, nil, nil, nil, nil
    if size > 0 then
      if not refill then
        refill, passing, store = level_functions()
      end
      local levels, skewed
      levels, skewed, found, cached_expiry = refill(key, kind)
      enough = enough and levels
      local changes = op == '0'
      for i = 1, size do
        local limit = kind[i]
        changes = changes or limit.spent > 0 or limit.spent < 0 and reply[n + i] < limit.full
        if limit.q ~= 1 then
          width = width + 1
        end
      end
      if times then
        passed, before = enough and passing(kind, times) or 0, {unpack(reply, n + 1, n + width)}
      end
      -- The time of a limit ahead of the clock is set back whatever the verdict: else it would not refill until the clock
      -- has caught up.
      spends = enough and changes and passed
      writes = spends or skewed and op ~= '1' and op ~= '7' and op ~= '8'
    end
    if held and enough and op == '0' then
      permits.grant(kind, id)
    elseif held and enough and op == '7' then
      permits.renew(kind, id)
    elseif held then
      permits.finish(kind, id)
    end
    if writes then
      store(key, kind, spends, found, cached_expiry)
    end
    taking = nil
    if times then
      reply[n] = 4 + passed
      for i = 1, width do
        reply[n + i] = before[i]
      end
    elseif enough then
      reply[n] = 1
    else
      reply[n] = op == '3' and 2 or 0
    end
    n = n + 1 + width
    if held then
      permits.answer(kind)
    end
  end

  return decide
end

