-- Returns what a kind of operation does to one bucket or quota, whose six arguments begin at a. A quota is a bucket without a
-- refill, whose level is what is left of it; its q is 0. time_us is the third argument of the kind.
local function precompute(op, cost, time_us, a, first)
  local field, own = ARGV[a], ARGV[a + 5]
  if own ~= '0' then
    if op == '0' or op == '5' then
      cost = own + 0
    else
      op = '1' -- the others leave it alone
    end
  end
  local capacity, p, r, q, max_debt = ARGV[a + 1] + 0, 1, 0, 0, 4503599627370496
  local pattern, tail, start_us, end_us = first and ':(%d+)$' or '$', nil, nil, nil
  if string.byte(field) == 113 then -- q
    start_us, end_us = ARGV[a + 2] + 0, ARGV[a + 3] + 0
    if now_us >= end_us then
      start_us, end_us = end_us, ARGV[a + 4] + 0
    end
    if op ~= '0' and time_us ~= '0' and time_us + 0 < start_us then
      op = '1' -- what was taken then does not count any more
    end
    pattern, tail = '^(%d+):(%d+)' .. pattern, ':' .. now_text .. ':'
  else
    local p_text = ARGV[a + 2]
    p, r, q = p_text + 0, ARGV[a + 3] + 0, ARGV[a + 4] + 0
    local most = r * (3153600000000000 / q) -- in 100 years of 365 days
    if max_debt > most then
      max_debt = most
    end
    pattern, tail = '^(%d+):(%d+):' .. p_text .. pattern, q == 1 and ':' .. now_text .. ':' .. p_text or ':' .. p_text
  end
  local spent, least = 0, -9007199254740992 -- what the operation takes, and the level that it needs
  if op == '0' then
    spent, least = taken(cost, capacity, p, r, q, time_us)
  elseif op == '2' or op == '5' then
    spent = -cost * p
  elseif op == '3' then
    spent = cost * p
    least = cost <= floor(9007199254740992 / p) and spent - max_debt or 9007199254740992
  elseif op == '6' or op == '9' then
    spent = cost * p
  end
  return {
    field = field,
    capacity = capacity,
    p = p,
    r = r,
    q = q,
    full = capacity * p,
    max_debt = max_debt,
    least = least,
    spent = spent,
    fast_pattern = pattern,
    tail = tail,
    start_us = start_us,
    end_us = end_us,
  }
end

-- Returns what the kind that is described from argument a on does.
local function described(a)
  local op, cost, time_us, start = ARGV[a], ARGV[a + 1] + 0, ARGV[a + 2], ARGV[a + 3] + 0
  if op == '0' and cost == 0 then
    op = '1'
  end
  -- A table that is made with all its fields need not grow. False stands for what comes later.
  local kind = {
    false, op = op, size = ARGV[start] + 0, ttl_margin_us = 0, farthest_ms = 0, fields = false, writes = false, wrong = false,
    permits = false,
    -- Of a take from one quota or concurrency limit alone: that limit, and the function that takes, which decide sets.
    only = false, take = false,
  }
  local fill_us = 0
  for i = 1, kind.size do
    local limit = precompute(op, cost, time_us, start + 6 * i - 4, i == 1)
    kind[i] = limit
    if limit.q == 0 then
      local length_us = limit.end_us - limit.start_us
      fill_us = length_us > fill_us and length_us or fill_us
      if now_us < limit.start_us or now_us >= limit.end_us then
        kind.wrong, refused = true, refused or {}
      end
    elseif limit.full * limit.q > fill_us * limit.r then
      fill_us = limit.full / limit.r * limit.q
    end
  end
  kind.ttl_margin_us, kind.farthest_ms = expiry_bounds(fill_us)
  if kind.size > 1 then
    kind.fields, kind.writes = {false, false}, {false, false, false, false} -- the arguments of HMGET and HSET
    for i = 1, kind.size do
      kind.fields[i], kind.writes[2 * i - 1] = kind[i].field, kind[i].field
    end
  end
  if ARGV[start + 1] == '0' then
    kind.only = op == '0' and kind.size == 1 and kind[1].q == 0 and kind[1]
  else
    kind.permits = {false}
    for i = 1, ARGV[start + 1] do
      local f = start + 6 * kind.size + 3 * i - 1
      local lease_us = ARGV[f + 2] + 0
      local ends = now_us + lease_us -- when a lease of now ends; the set expires a day later
      kind.permits[i] = {
        suffix = ':f:' .. ARGV[f], size = ARGV[f + 1] + 0, lease_us = lease_us, ends = ends, ends_text = format('%d', ends),
        deadline_ms = format('%d', ceil((ends + 86400000000) / 1000)), set = false, held = false, expires = false, expired = false,
      }
    end
    kind.only = op == '0' and kind.size == 0 and not kind.permits[2] and kind.permits[1]
    if not first_id then
      first_id = #ARGV - 1 - ARGV[#ARGV]
      for i = #KEYS, ARGV[#ARGV] + 1, -1 do
        KEYS[i] = nil -- no group begins there
      end
    end
  end
  return kind
end
