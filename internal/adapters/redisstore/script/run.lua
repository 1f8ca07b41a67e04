local decide

-- Decides the groups from the k-th on. The most frequent case is decided here in few steps: a take by one limit in ticks of
-- 1 us from a bucket that is new, or was stored by the same limit. Everything else goes to decide.
local function decide_all()
  local at_now = ':' .. now_text .. ':'
  local loaded, fast, several, field, full, r, p, q, least, spent, pattern, ttl_margin_us, farthest_ms
  while keys[k] do
    local key = keys[k]
    if k == next_group then
      local number, each, following = unpack(ARGV, next_run, next_run + 2)
      kind_at, times, loaded = 4 * number - 1, each ~= '1' and each + 0, nil
      next_run, next_group = next_run + 3, following + 0
    end
    if not loaded then
      local op, cost, time_us, start = unpack(ARGV, kind_at, kind_at + 3)
      local size, permits, own
      start = start + 0
      size, permits, field, full, p, r, q, own = unpack(ARGV, start, start + 7)
      loaded, several = true, times
      -- What is q of a bucket is a time of a quota, and never 1.
      fast = op == '0' and cost ~= '0' and size == '1' and permits == '0' and q == '1' and not refused
      if fast then
        local capacity = full + 0
        full, r = capacity * p, r + 0
        spent, least = taken((own == '0' and cost or own) + 0, capacity, p, r, 1, time_us)
        pattern = '^(%d+):(%d+):' .. p .. ':(%d+)$'
        ttl_margin_us, farthest_ms = expiry_bounds(full / r)
      end
    end
    local found = fast and call('HGET', key, field)
    local level, at, cached_expiry = full, now_us, '0'
    if found then
      level, at, cached_expiry = match(found, pattern)
      level = level and level + 0
    end
    local elapsed = level and now_us - at
    if not fast or not level or level > full or elapsed < 0 then
      decide = decide or general()
      decide(key)
    else
      local verdict = 0
      level = level + elapsed * r
      if level > full then
        level = full
      end
      if level >= least then
        verdict = 1
        if several then
          verdict = floor((level - least) / spent) + 1
          verdict = verdict < several and verdict or several
        end
        level = level - verdict * spent
        local expiry_ms = cached_expiry + 0
        if (expiry_ms * 1000 - now_us) * r < full - level or expiry_ms > farthest_ms then
          cached_expiry = format('%d', ceil((now_us + ceil((full - level) / r) + ttl_margin_us) / 1000))
          if found then
            postpone(key, cached_expiry)
          end
        end
        call('HSET', key, field, format('%d', level) .. at_now .. p .. ':' .. cached_expiry)
        if not found then
          postpone(key, cached_expiry, true, field)
        end
      end
      reply[n], reply[n + 1] = verdict, level
      if several then
        reply[n], reply[n + 1] = 4 + verdict, level + verdict * spent
      end
      n = n + 2
    end
    k = k + 1
  end
end

-- An error of one group must not end the script: the groups before it are debited already.
while keys[k] do
  local ok, failure = pcall(decide_all)
  if not ok then
    -- A take that failed holds nothing.
    for i = 1, taking and #taking or 0 do
      redis.pcall('ZREM', taking[i].set, taking_id, long_id)
    end
    taking = nil
    reply[n], reply[n + 1] = -1, type(failure) == 'table' and failure.err or tostring(failure)
    n, k = n + 2, k + 1
    for i = n, n + 2 * ARGV[ARGV[kind_at + 3] + 0] do
      reply[i] = nil -- written by the group before it failed, with gaps
    end
  end
end
return reply
