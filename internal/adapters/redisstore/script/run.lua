local decide

-- Decides the groups from the k-th on. The most frequent case is decided here in few steps: a take by one limit in ticks of
-- 1 us from a bucket that is new, or was stored by the same limit. Everything else goes to decide.
local function decide_all()
  local loaded, fast, several, field, full, r, least, spent, pattern, tail
  while keys[k] do
    local key = keys[k]
    if k == next_group then
      local each = ARGV[next_run + 1] + 0
      kind, times, loaded = kinds and kinds[ARGV[next_run]] or kind, each > 1 and each, nil
      next_run, next_group = next_run + 3, ARGV[next_run + 2] + 0
    end
    if kind ~= loaded then
      local limit = kind[1]
      loaded, several, fast = kind, times, kind.op == '0' and kind.size == 1 and limit.q == 1 and not kind.permits and not refused
      if fast then
        field, full, r, least, spent = limit.field, limit.full, limit.r, limit.least, limit.spent
        pattern, tail = limit.fast_pattern, limit.tail .. ':'
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
      decide(key, kind)
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
        local kept = (cached_expiry * 1000 - now_us) * r >= full - level and cached_expiry + 0 <= kind.farthest_ms
        if not kept then
          cached_expiry = format('%d', ceil((now_us + ceil((full - level) / r) + kind.ttl_margin_us) / 1000))
          if found then
            postpone(key, cached_expiry)
          end
        end
        call('HSET', key, field, format('%d', level) .. tail .. cached_expiry)
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
    reply[n], reply[n + 1] = -1, type(failure) == 'table' and failure.err or tostring(failure)
    n, k = n + 2, k + 1
    for i = n, n + 2 * kind.size do
      reply[i] = nil -- written by the group before it failed, with gaps
    end
  end
end
return reply
