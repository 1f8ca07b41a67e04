package script_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// How long a key lives: until its last limit is full, plus a margin. Most decisions leave the expiry alone, because the expiry
// that is cached beside the bucket is late enough.

// ttlMargin is how much longer than its last limit needs a key may live.
func ttlMargin(limits []domain.Limit, now domain.Instant) time.Duration {
	longest := time.Duration(0)
	for i := range limits {
		longest = max(longest, limits[i].Window(now))
	}
	return min(max(longest/16, time.Second), time.Minute)
}

// fullAt is when the last of the limits says nothing any more.
func fullAt(limits []domain.Limit, states []domain.State) domain.Instant {
	last := domain.Instant(0)
	for i := range limits {
		last = max(last, limits[i].FullAt(states[i]))
	}
	return last
}

// expiryBounds are the earliest and the latest expiry, in milliseconds, of a key stored like this at now. Beyond the margin
// there are roundings: to a tick, which may be a millisecond, and to a millisecond.
func expiryBounds(limits []domain.Limit, states []domain.State, now domain.Instant) (earliestMS, latestMS int64) {
	full := fullAt(limits, states)
	return (int64(full) + 999) / 1000, int64(max(full, now).Add(ttlMargin(limits, now)))/1000 + 2
}

// splitExpiry splits what is stored in a field into the state and the cached expiry, in milliseconds; 0 if there is none.
func splitExpiry(t testing.TB, field, stored string) (state string, expiryMS int64) {
	t.Helper()
	parts := strings.Split(stored, ":")
	size := map[byte]int{'b': 3, 'q': 2}[field[0]]
	if len(parts) == size+1 {
		n, err := strconv.ParseInt(parts[size], 10, 64)
		require.NoError(t, err)
		expiryMS, parts = n, parts[:size]
	}
	return strings.Join(parts, ":"), expiryMS
}

// expiry is when the client's key expires, in milliseconds; -1 if never.
func expiry(t testing.TB, c *redis.Client, client string) int64 {
	t.Helper()
	at, err := c.Do(t.Context(), "PEXPIRETIME", script.RedisKey(key(client))).Int64()
	require.NoError(t, err)
	return at
}

func requireExpiry(t testing.TB, c *redis.Client, client string, limits []domain.Limit, r ports.TakeResult) int64 {
	t.Helper()
	earliest, latest := expiryBounds(limits, r.States, r.Now)
	at := expiry(t, c, client)
	require.GreaterOrEqual(t, at, earliest, "a key outlives its last limit's filling")
	require.LessOrEqual(t, at, latest, "by the margin at most")
	return at
}

func TestExpiry_isWhenTheLastLimitIsFullAndNeverEarlier(t *testing.T) {
	s, c := storeAndClient(t)
	fast, slow := limit(t, "fast", "3/s", 10), limit(t, "slow", "7/h", 10)
	both := []domain.Limit{fast, slow}

	whole := requireExpiry(t, c, "a", both, takeOne(t, s, "a", 3, both...))
	takeOne(t, s, "a", 1, fast)
	assert.Equal(t, whole, expiry(t, c, "a"), "a node that knows the fast limit alone does not shorten it")

	emptier := requireExpiry(t, c, "a", both, takeOne(t, s, "a", 1, both...))
	assert.Greater(t, emptier, whole, "a bucket with fewer tokens is kept longer")

	refund := take("a", 1, slow)
	refund.Op = domain.OpRefund
	require.NoError(t, ports.Take(t.Context(), s, refund).Err)
	assert.Equal(t, emptier, expiry(t, c, "a"), "a refund does not shorten the expiry")
}

func TestExpiry_isPostponedOnlyWhenTheMarginIsUsedUp(t *testing.T) {
	for _, each := range []struct {
		rate     string
		capacity domain.Tokens
		takes    int
	}{{"5/s", 10, 4}, {"10000/24h", 10_000, 6}, {"7/8760h", 500, 1}} {
		s, c := storeAndClient(t)
		limits := []domain.Limit{limit(t, "burst", each.rate, each.capacity)}
		first := requireExpiry(t, c, "a", limits, takeOne(t, s, "a", 1, limits...))
		for range each.takes - 1 {
			takeOne(t, s, "a", 1, limits...)
		}
		assert.Equal(t, first, expiry(t, c, "a"), "%s: the first take's margin covers these", each.rate)
		assert.Equal(t, "1", calls(t, c, "pexpireat"), each.rate)

		_, cached := splitExpiry(t, "b:burst", level(t, c, "a", "burst"))
		assert.Equal(t, first, cached, "the cached expiry is the one in force")

		last := takeOne(t, s, "a", each.capacity/2, limits...)
		assert.Greater(t, requireExpiry(t, c, "a", limits, last), first, each.rate)
		assert.Equal(t, "2", calls(t, c, "pexpireat"), each.rate)
	}
}

// A cached expiry is true as long as its key lives, unless another program changed the key's expiry.
func TestExpiry_isSetAgainWhenTheCachedOneCannotBeTrue(t *testing.T) {
	l := limit(t, "burst", "1/m", 10)
	for _, each := range []struct {
		name   string
		cached func(now domain.Instant) string
	}{
		{"none: an older node wrote it", func(domain.Instant) string { return "" }},
		{"no number", func(domain.Instant) string { return ":soon" }},
		{"negative", func(domain.Instant) string { return ":-1" }},
		{"too early", func(now domain.Instant) string { return fmt.Sprintf(":%d", now/1000) }},
		{"farther than these limits need", func(now domain.Instant) string { return fmt.Sprintf(":%d", now.Add(time.Hour)/1000) }},
		{"in microseconds", func(now domain.Instant) string { return fmt.Sprintf(":%d", now.Add(time.Minute)) }},
		{"no end to it", func(domain.Instant) string { return ":" + strings.Repeat("9", 400) }},
	} {
		for found, prepare := range map[string]func(c *redis.Client, k string) error{
			"no expiry":        func(*redis.Client, string) error { return nil },
			"too short an one": func(c *redis.Client, k string) error { return c.PExpire(t.Context(), k, 10*time.Second).Err() },
		} {
			for _, limits := range [][]domain.Limit{{l}, {l, limit(t, "fast", "5/s", 10)}} {
				t.Run(fmt.Sprintf("%s, %s, %d limits", each.name, found, len(limits)), func(t *testing.T) {
					s, c := storeAndClient(t)
					now := takeOne(t, s, "other", 1, l).Now
					k := script.RedisKey(key("a"))
					value := fmt.Sprintf("%d:%d:%d", 9*l.TokenBucket().TokenCredits(), now, l.TokenBucket().TokenCredits()) + each.cached(now)
					require.NoError(t, c.HSet(t.Context(), k, "b:burst", value).Err())
					require.NoError(t, prepare(c, k))

					at := requireExpiry(t, c, "a", limits, takeOne(t, s, "a", 1, limits...))
					_, cached := splitExpiry(t, "b:burst", level(t, c, "a", "burst"))
					assert.Equal(t, at, cached)
				})
			}
		}
	}
}

func TestExpiry_isGivenBackToAKeyThatLostIt(t *testing.T) {
	s, c := storeAndClient(t)
	limits := []domain.Limit{limit(t, "burst", "1/m", 10)}
	first := requireExpiry(t, c, "a", limits, takeOne(t, s, "a", 1, limits...))
	require.NoError(t, c.Persist(t.Context(), script.RedisKey(key("a"))).Err())
	later := requireExpiry(t, c, "a", limits, takeOne(t, s, "a", 5, limits...))
	assert.Greater(t, later, first, "the cached expiry was too early for that")

	dump, err := c.Dump(t.Context(), script.RedisKey(key("a"))).Result()
	require.NoError(t, err)
	require.NoError(t, c.Restore(t.Context(), script.RedisKey(key("b")), 0, dump).Err())
	requireExpiry(t, c, "b", limits, takeOne(t, s, "b", 3, limits...))
}

func TestExpiry_cachedForSeveralLimitsIsTrue(t *testing.T) {
	s, c := storeAndClient(t)
	fast, slow := limit(t, "fast", "5/s", 10), limit(t, "slow", "1/h", 10)
	k := script.RedisKey(key("a"))
	short := requireExpiry(t, c, "a", []domain.Limit{fast}, takeOne(t, s, "a", 1, fast))
	both := []domain.Limit{fast, slow}
	long := requireExpiry(t, c, "a", both, takeOne(t, s, "a", 1, both...))
	require.Greater(t, long, short, "the fast limit's cached expiry does not cover the slow one")

	takeOne(t, s, "a", 1, fast)
	assert.Equal(t, long, expiry(t, c, "a"), "the fast limit alone does not shorten it")

	turned := []domain.Limit{slow, fast} // another node may list them in another order
	longer := requireExpiry(t, c, "a", turned, takeOne(t, s, "a", 1, turned...))
	assert.Greater(t, longer, long)
	for field, value := range c.HGetAll(t.Context(), k).Val() {
		_, cached := splitExpiry(t, field, value)
		assert.LessOrEqual(t, cached, longer, "the cached expiry in %s is true", field)
	}
	requireExpiry(t, c, "a", both, takeOne(t, s, "a", 2, both...))
}

func TestExpiry_ofFieldsThatAreNotOursIsRespected(t *testing.T) {
	s, c := storeAndClient(t)
	l := limit(t, "burst", "1/s", 10)
	foreign := func(client string, ttl time.Duration) int64 {
		k := script.RedisKey(key(client))
		require.NoError(t, c.HSet(t.Context(), k, "q:monthly", "7").Err())
		require.NoError(t, c.PExpire(t.Context(), k, ttl).Err())
		before := expiry(t, c, client)
		takeOne(t, s, client, 5, l)
		require.Equal(t, "7", c.HGet(t.Context(), k, "q:monthly").Val())
		return expiry(t, c, client) - before
	}
	assert.Zero(t, foreign("long", time.Hour), "a longer expiry stays")
	assert.Positive(t, foreign("short", time.Second), "a shorter one is postponed until this bucket is full")
}

func TestExpiry_idleBucketVanishes(t *testing.T) {
	s, c := storeAndClient(t)
	l := limit(t, "burst", "1000/s", 20)
	takeOne(t, s, "a", 20, l)
	assert.Eventually(t, func() bool {
		return c.Exists(t.Context(), script.RedisKey(key("a"))).Val() == 0
	}, 20*time.Second, 10*time.Millisecond, "20 tokens fill in 20 ms by the server's own clock, and the margin is a second")
	assert.Equal(t, domain.Tokens(19), l.Remaining(takeOne(t, s, "a", 1, l).States[0]))
}
