#!lua
-- Decides operations on bucket groups, in the order given; each is all or nothing. Because of the first line, a server
-- that is read-only, full or cut off from its primary refuses the script before it starts, instead of at its first
-- write. A denial writes nothing, so without that line a stale replica would answer it.
--
-- KEYS  one Hash per group; a key may repeat, and each of its groups sees what those before it did. In place of its Hash a group
--       that has only concurrency limits names the Sorted Set of the first of them. The other Sorted Sets follow, which nothing
--       here reads: a Redis Cluster must know them. A bucket's field
--       b:<limit name> holds <credits>:<at_us>:<p>, a quota's field q:<limit name> holds <used>:<at_us>, and that of a
--       group's first limit also :<expiry_ms>. Text after a further colon is ignored. The permits of a concurrency limit are
--       beside the Hash, in the Sorted Set <key>:f:<limit name>: their IDs, by the time at which they expire (microseconds).
-- ARGV  version ("5"), the number of kinds, then each kind of operation that occurs:
--         op (0 take, 1 peek, 2 refund, 3 charge, 4 reset, 5 undo, 6 release, 7 renew, 8 list, 9 settle),
--         cost (tokens; of a release and a settling what is charged, or below zero refunded),
--         of a take how long it may wait, of other operations when the tokens were taken (microseconds; 0: now),
--         where in ARGV its limits begin
--       then, if there are several kinds or a group stands for several equal operations, runs of groups that are alike: of each
--         its kind (counted from 1), for how many operations each of its groups stands, and the group after it (counted from 1)
--       then the limits of each kind, once where kinds share them: the number of buckets and quotas, the number of
--       concurrency limits, then each limit, concurrency limits last:
--         of a bucket: field, capacity (tokens), p (credits per token), r (credits per tick), q (microseconds per tick),
--                      its own cost (tokens; 0: the operation's)
--         of a quota:  field, quota (tokens), start and end of a period, end of the next one (microseconds), its own cost
--         of permits:  name, how many can be held, lease (microseconds)
--       then, if any kind has a concurrency limit, for each group the ID of the permit that the operation is about, and the
--       number of groups
--       A group may stand for several takes, refunds, charges or undos if it has no concurrency limit. They are decided one after
--       the other, at one instant: the first ones pass, as many as can.
-- reply version, now (microseconds since the epoch), then for each group:
--         verdict (0 denied, 1 allowed, 2 debt exceeded), then the credits of each of its buckets (of a quota: the tokens
--         that are left), then the time (microseconds) of each that is a quota or whose tick is longer than 1 us (the
--         others' is now), then of each concurrency limit how many permits are held and when the first expires (now if none
--         is held), all after the operation; of a list then for each concurrency limit the number of permits listed, and of
--         each its ID and when it expires
--         of a group that stands for several: 4 and how many passed, in one number, then the same credits and times, but as they
--         were before the first
--         or, when now is in neither period of a quota, 3; nothing was done to it, nor to later groups of its key
--         or, when this group failed, -1 and a message; nothing was done to it, and its neighbours are decided
--
-- The arithmetic is domain's. Every value stays within 2^53 in size, so doubles are exact. A product of whole numbers
-- that passes 2^53 is rounded, but never to below 2^53, so a comparison with a value is exact, too: the product is larger.
-- floor(a / b) is exact for whole |a| <= 2^53 and b >= 1: if n is the whole number above a / b, then
-- n - a / b >= 1 / b >= (a / b) / 2^53, more than half of the gap between the doubles there (equal to it only when
-- a / b is a power of two, which is exact), so the quotient is never rounded up to n. The same holds for ceil.
-- `%` has no such proof: it computes a - floor(a / b) * b.
--
-- The cost of a run is its interpreter steps, and the strings and functions that it creates. A run of one decision pays for
-- the whole setup. So what all groups share is computed once, strings are converted to numbers by `+ 0`, which costs half of
-- tonumber, and once, since that takes as long as two dozen steps. Constants are written as literals (2^52 is
-- 4503599627370496, 2^53 is 9007199254740992). What nearly every group comes by assigns one value in a statement: with
-- several, each is copied first.

local call, match, format = redis.call, string.match, string.format
local unpack, floor, ceil, ARGV = unpack, math.floor, math.ceil, ARGV

if ARGV[1] ~= '5' then
  return redis.error_reply('ERR this script reads version 5 of its input')
end

-- TIME moves while a script runs, so it is read once: all groups are decided at the same instant.
local time = call('TIME'); local now_us = time[1] * 1000000 + time[2]

-- %d goes through a C long. %.0f does not, but costs six times as much; `..` would drop digits.
local now_text = format('%d', now_us)
if now_text + 0 ~= now_us then
  return redis.error_reply('ERR this script needs a 64-bit server')
end

-- Returns what a take takes from a bucket or quota, and the level that it needs. A bucket lends what it refills in time_us, while
-- the take waits, but at most its largest debt. No take waits so long that the bound of 100 years matters.
local function taken(cost, capacity, p, r, q, time_us)
  local spent = cost * p
  if cost > capacity then
    return spent, 9007199254740992
  elseif time_us == '0' or q == 0 then
    return spent, spent
  end
  local lent = floor(time_us / q) * r
  return spent, spent - (lent < 4503599627370496 and lent or 4503599627370496)
end

-- Returns the margin of the expiry of a key whose limits are full after fill_us, and the latest expiry that they can need.
local function expiry_bounds(fill_us)
  local ttl_margin_us = fill_us / 16
  if ttl_margin_us < 1000000 then
    ttl_margin_us = 1000000
  elseif ttl_margin_us > 60000000 then
    ttl_margin_us = 60000000
  end
  return ttl_margin_us, (now_us + 2 * fill_us + ttl_margin_us) / 1000
end

-- The runs of groups that are alike: where in ARGV the next one is described, and its first group, nil if none is described.
-- The limits of the first kind follow the runs. The kind of the current run is described in ARGV from kind_at on, and each of
-- its groups stands for times operations, nil if for one.
local next_run, next_group, times, kind_at = 3 + 4 * ARGV[2], nil, nil, 3
if ARGV[6] + 0 > next_run then
  next_group = 1
end
local taking, taking_id -- the concurrency limits to whose sets a take is adding a permit, and its ID; taking is nil if none is
local long_id -- of 70 bytes: what a take may add beside the permit and remove, see needs_index
local refused -- the keys that a group of a wrong period had; nil if there is no such group

-- The reply so far. The current group is the k-th, and its verdict goes to index n. The two zeros are replaced by the first
-- group; with them the table need not grow for a single group.
local reply, n, k, keys = {5, now_us, 0, 0}, 3, 1, KEYS

-- A key expires when its last limit is full again, which a quota is when its period ends, plus a margin: a sixteenth of the
-- fill time or period, at least a second and at most a minute. Because of the margin, most decisions need not postpone the
-- expiry. The expiry is cached in the value of the first limit. It only moves later, since another node may keep more limits
-- in this key. So a cached expiry stays true as long as the key lives, whoever writes to it. A cached expiry later than these
-- limits can need is ignored. A key that lost its expiry (PERSIST, RESTORE) gets one again once the cached expiry is too early.
--
-- GT treats a key without an expiry as one that never expires, and leaves it so. So if none of this group's fields was
-- found, NX is tried first: the key is new, or holds other fields with an expiry, which GT then keeps.
--
-- If the user may not set an expiry, the request fails, so it must not be debited. So the expiry of an existing key is
-- postponed before the key is written. From a new key, the fields that were written are deleted again.
local function postpone(key, cached_expiry, new, ...)
  local done = redis.pcall('PEXPIREAT', key, cached_expiry, new and 'NX' or 'GT')
  if done == 0 then
    call('PEXPIREAT', key, cached_expiry, new and 'GT' or 'NX')
  elseif done ~= 1 then
    if new then
      call('HDEL', key, ...)
    end
    error(done.err, 0)
  end
end

