package redisstore_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// How long a key lives: until its last limit is full, with a slack, by an expiry that most decisions leave alone
// because a note beside the bucket says that it is late enough.

// expirySlack is how much longer than its last limit needs a key may live.
func expirySlack(limits []domain.Limit) time.Duration {
	longest := time.Duration(0)
	for i := range limits {
		longest = max(longest, limits[i].FillTime())
	}
	return min(max(longest/16, time.Second), time.Minute)
}

// fullAt is when the last of the buckets is full.
func fullAt(limits []domain.Limit, buckets []domain.Bucket) domain.Instant {
	last := domain.Instant(0)
	for i := range limits {
		last = max(last, limits[i].FullAt(buckets[i]))
	}
	return last
}

// expiryBounds are the earliest and the latest expiry, in milliseconds, of a key stored like this. Beyond the slack
// there are roundings: to a tick, which may be a millisecond, and to a millisecond.
func expiryBounds(limits []domain.Limit, buckets []domain.Bucket) (earliestMS, latestMS int64) {
	full := fullAt(limits, buckets)
	return (int64(full) + 999) / 1000, int64(full.Add(expirySlack(limits)))/1000 + 2
}

// splitNote splits what is stored into the bucket and the expiry noted behind it, in milliseconds; 0 if there is none.
func splitNote(t testing.TB, stored string) (bucket string, noteMS int64) {
	t.Helper()
	parts := strings.Split(stored, ":")
	if len(parts) == 4 {
		n, err := strconv.ParseInt(parts[3], 10, 64)
		require.NoError(t, err)
		noteMS, parts = n, parts[:3]
	}
	return strings.Join(parts, ":"), noteMS
}

// expiry is when the client's key expires, in milliseconds; -1 if never.
func expiry(t testing.TB, c *redis.Client, client string) int64 {
	t.Helper()
	at, err := c.Do(t.Context(), "PEXPIRETIME", redisstore.RedisKey(key(client))).Int64()
	require.NoError(t, err)
	return at
}

func requireExpiry(t testing.TB, c *redis.Client, client string, limits []domain.Limit, r ports.TakeResult) int64 {
	t.Helper()
	earliest, latest := expiryBounds(limits, r.Buckets)
	at := expiry(t, c, client)
	require.GreaterOrEqual(t, at, earliest, "a key outlives its last limit's filling")
	require.LessOrEqual(t, at, latest, "by the slack at most")
	return at
}

func TestExpiry_isWhenTheLastLimitIsFullAndNeverEarlier(t *testing.T) {
	s, c := storeAndClient(t)
	fast, slow := limit(t, "fast", "3/s", 10), limit(t, "slow", "7/h", 10)
	both := []domain.Limit{fast, slow}

	whole := requireExpiry(t, c, "a", both, takeOne(t, s, "a", 3, both...))
	takeOne(t, s, "a", 1, fast)
	assert.Equal(t, whole, expiry(t, c, "a"), "a node that knows the fast limit alone does not shorten it")

	poorer := requireExpiry(t, c, "a", both, takeOne(t, s, "a", 1, both...))
	assert.Greater(t, poorer, whole, "a poorer bucket is kept longer")

	refund := take("a", 1, slow)
	refund.Op = domain.OpRefund
	require.NoError(t, ports.Take(t.Context(), s, refund).Err)
	assert.Equal(t, poorer, expiry(t, c, "a"), "a richer one is not kept shorter")
}

func TestExpiry_isPutOffOnlyWhenTheSlackIsUsedUp(t *testing.T) {
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
		assert.Equal(t, first, expiry(t, c, "a"), "%s: the first take's slack covers these", each.rate)
		assert.Equal(t, "1", calls(t, c, "pexpireat"), each.rate)

		_, noted := splitNote(t, level(t, c, "a", "burst"))
		assert.Equal(t, first, noted, "the note is the expiry in force")

		last := takeOne(t, s, "a", each.capacity/2, limits...)
		assert.Greater(t, requireExpiry(t, c, "a", limits, last), first, each.rate)
		assert.Equal(t, "2", calls(t, c, "pexpireat"), each.rate)
	}
}

// A note is true as long as its key lives, unless somebody else made the key's expiry another.
func TestExpiry_isSetAgainWhenTheNoteCannotBeBelieved(t *testing.T) {
	l := limit(t, "burst", "1/m", 10)
	for _, each := range []struct {
		name string
		note func(now domain.Instant) string
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
					k := redisstore.RedisKey(key("a"))
					value := fmt.Sprintf("%d:%d:%d", 9*l.TokenCredits(), now, l.TokenCredits()) + each.note(now)
					require.NoError(t, c.HSet(t.Context(), k, "b:burst", value).Err())
					require.NoError(t, prepare(c, k))

					at := requireExpiry(t, c, "a", limits, takeOne(t, s, "a", 1, limits...))
					_, noted := splitNote(t, level(t, c, "a", "burst"))
					assert.Equal(t, at, noted)
				})
			}
		}
	}
}

func TestExpiry_isGivenBackToAKeyThatLostIt(t *testing.T) {
	s, c := storeAndClient(t)
	limits := []domain.Limit{limit(t, "burst", "1/m", 10)}
	first := requireExpiry(t, c, "a", limits, takeOne(t, s, "a", 1, limits...))
	require.NoError(t, c.Persist(t.Context(), redisstore.RedisKey(key("a"))).Err())
	later := requireExpiry(t, c, "a", limits, takeOne(t, s, "a", 5, limits...))
	assert.Greater(t, later, first, "the note was too early for that")

	dump, err := c.Dump(t.Context(), redisstore.RedisKey(key("a"))).Result()
	require.NoError(t, err)
	require.NoError(t, c.Restore(t.Context(), redisstore.RedisKey(key("b")), 0, dump).Err())
	requireExpiry(t, c, "b", limits, takeOne(t, s, "b", 3, limits...))
}

func TestExpiry_notesOfSeveralLimitsDoNotMislead(t *testing.T) {
	s, c := storeAndClient(t)
	fast, slow := limit(t, "fast", "5/s", 10), limit(t, "slow", "1/h", 10)
	k := redisstore.RedisKey(key("a"))
	short := requireExpiry(t, c, "a", []domain.Limit{fast}, takeOne(t, s, "a", 1, fast))
	both := []domain.Limit{fast, slow}
	long := requireExpiry(t, c, "a", both, takeOne(t, s, "a", 1, both...))
	require.Greater(t, long, short, "the fast limit's note says nothing of the slow one")

	takeOne(t, s, "a", 1, fast)
	assert.Equal(t, long, expiry(t, c, "a"), "the fast limit alone does not shorten it")

	turned := []domain.Limit{slow, fast} // another node may list them in another order
	longer := requireExpiry(t, c, "a", turned, takeOne(t, s, "a", 1, turned...))
	assert.Greater(t, longer, long)
	for field, value := range c.HGetAll(t.Context(), k).Val() {
		_, noted := splitNote(t, value)
		assert.LessOrEqual(t, noted, longer, "what %s notes is true", field)
	}
	requireExpiry(t, c, "a", both, takeOne(t, s, "a", 2, both...))
}

func TestExpiry_ofFieldsThatAreNotOursIsRespected(t *testing.T) {
	s, c := storeAndClient(t)
	l := limit(t, "burst", "1/s", 10)
	foreign := func(client string, ttl time.Duration) int64 {
		k := redisstore.RedisKey(key(client))
		require.NoError(t, c.HSet(t.Context(), k, "q:monthly", "7").Err())
		require.NoError(t, c.PExpire(t.Context(), k, ttl).Err())
		before := expiry(t, c, client)
		takeOne(t, s, client, 5, l)
		require.Equal(t, "7", c.HGet(t.Context(), k, "q:monthly").Val())
		return expiry(t, c, client) - before
	}
	assert.Zero(t, foreign("long", time.Hour), "a longer expiry stays")
	assert.Positive(t, foreign("short", time.Second), "a shorter one is put off until our bucket is full")
}

func TestExpiry_idleBucketVanishes(t *testing.T) {
	s, c := storeAndClient(t)
	l := limit(t, "burst", "1000/s", 20)
	takeOne(t, s, "a", 20, l)
	assert.Eventually(t, func() bool {
		return c.Exists(t.Context(), redisstore.RedisKey(key("a"))).Val() == 0
	}, patient, 10*time.Millisecond, "20 tokens fill in 20 ms by the server's own clock, and the slack is a second")
	assert.Equal(t, domain.Tokens(19), l.Remaining(takeOne(t, s, "a", 1, l).Buckets[0]))
}
