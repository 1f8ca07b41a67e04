package redisstore_test

import (
	"encoding"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// What the script does to a real server, seen from beside the store.

func storeAndClient(t *testing.T, opts ...redistest.Option) (*redisstore.Store, *redis.Client) {
	server := redistest.Start(t, opts...)
	return newStore(t, config(server.Addr)), plainClient(t, server.Addr)
}

// calls is how often the server has run a command.
func calls(t *testing.T, c *redis.Client, command string) string {
	t.Helper()
	for line := range strings.Lines(c.Info(t.Context(), "commandstats").Val()) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_"+command+":calls="); ok {
			n, _, _ := strings.Cut(rest, ",")
			return n
		}
	}
	return "0"
}

func TestScript_isSentAgainWhenTheServerForgotIt(t *testing.T) {
	s, c := storeAndClient(t)
	l := limit(t, "burst", "1/h", 10)
	for want := domain.Tokens(9); want >= 7; want-- {
		assert.Equal(t, want, l.Remaining(takeOne(t, s, "a", 1, l).Buckets[0]))
		require.NoError(t, c.ScriptFlush(t.Context()).Err())
	}
	assert.Equal(t, "3", calls(t, c, "eval"), "each flush costs one EVAL")
}

func TestScript_refusesAnotherVersionBeforeAnythingIsDone(t *testing.T) {
	_, c := storeAndClient(t)
	l := limit(t, "burst", "1/h", 10)
	args := redisstore.Encode(redisstore.TakeSource(), []ports.TakeRequest{take("a", 1, l)})
	args[0], args[1] = "eval", redisstore.TakeSource()
	args[4] = 2 // after the command, the source, the number of keys and the key
	err := c.Do(t.Context(), args...).Err()
	require.ErrorContains(t, err, "version")
	assert.True(t, redisstore.Classify(err).NotRun)
	assert.Zero(t, c.DBSize(t.Context()).Val())
}

func TestScript_aGroupThatCannotBeReadLeavesItsNeighboursDecided(t *testing.T) {
	s, c := storeAndClient(t)
	burst, daily := limit(t, "burst", "1/h", 10), limit(t, "daily", "1/24h", 100)
	require.NoError(t, c.Set(t.Context(), redisstore.RedisKey(key("string")), "x", 0).Err())
	corrupt := []string{
		"", "x", "1:2", "1:2:", "1:2:x", "1.5:2:3", "1:2:3x", " 1:2:3", "1:-2:3", "1:2:-3", "1:2:0", "nan:1:1", "1e3:1:1", "0x1:1:1",
		"4503599627370497:1:1", "-4503599627370497:1:1", "1:9007199254740992:1", "1:1:4503599627370497",
		strings.Repeat("9", 400) + ":1:1", "1:2:3\x00",
	}
	reqs := []ports.TakeRequest{take("first", 1, burst, daily), take("string", 1, burst, daily)}
	for i, value := range corrupt {
		name := fmt.Sprintf("corrupt-%d", i)
		require.NoError(t, c.HSet(t.Context(), redisstore.RedisKey(key(name)), "b:daily", value).Err())
		reqs = append(reqs, take(name, 1, burst, daily), take("last", 1, burst, daily))
	}
	results := make([]ports.TakeResult, len(reqs))
	s.TakeMany(t.Context(), reqs, results)

	for i := range results {
		if reqs[i].Key == key("first") || reqs[i].Key == key("last") {
			require.NoError(t, results[i].Err, "slot %d", i)
			continue
		}
		require.ErrorIs(t, results[i].Err, ports.ErrCorrupt, "slot %d: %s", i, reqs[i].Key)
		assert.NotErrorIs(t, results[i].Err, ports.ErrUnavailable)
	}
	assert.Equal(t, domain.Tokens(9), burst.Remaining(results[0].Buckets[0]))
	assert.Equal(t, domain.Denied, results[len(results)-1].Verdict, "10 of %d takes passed", len(corrupt))
	for i, value := range corrupt {
		stored := c.HGetAll(t.Context(), redisstore.RedisKey(key(fmt.Sprintf("corrupt-%d", i)))).Val()
		assert.Equal(t, map[string]string{"b:daily": value}, stored, "nothing is half written")
	}

	reset := take("corrupt-0", 0, daily)
	reset.Op = domain.OpReset
	require.NoError(t, ports.Take(t.Context(), s, reset).Err, "a reset mends it")
	assert.Equal(t, domain.Tokens(99), daily.Remaining(takeOne(t, s, "corrupt-0", 1, daily).Buckets[0]))
}

func TestScript_readsPastAFurtherColon(t *testing.T) {
	s, c := storeAndClient(t)
	l := limit(t, "burst", "1/h", 10)
	now := takeOne(t, s, "other", 1, l).Now
	value := fmt.Sprintf("%d:%d:%d:w=7:whatever", 3*l.TokenCredits(), now, l.TokenCredits())
	require.NoError(t, c.HSet(t.Context(), redisstore.RedisKey(key("a")), "b:burst", value).Err())
	assert.Equal(t, domain.Tokens(2), l.Remaining(takeOne(t, s, "a", 1, l).Buckets[0]))
}

func TestScript_writesLargeNumbersInFull(t *testing.T) {
	s, c := storeAndClient(t)
	l, err := domain.NewLimit("huge", 1, 1, (1<<51+1)*time.Microsecond) // a token in 71 years: p is 2^51 + 1
	require.NoError(t, err)
	charge := take("a", 1, l)
	charge.Op = domain.OpCharge
	require.NoError(t, ports.Take(t.Context(), s, charge).Err)
	r := ports.Take(t.Context(), s, charge)
	require.NoError(t, r.Err)
	require.Greater(t, -r.Buckets[0].Credits, domain.Credits(1_000_000_000_000_000))
	want := fmt.Sprintf("%d:%d:%d", r.Buckets[0].Credits, r.Buckets[0].At, l.TokenCredits())
	assert.Equal(t, want, level(t, c, "a", "huge"))
}

func TestScript_keyExpiresWhenItsLastLimitIsFullAndNeverEarlier(t *testing.T) {
	s, c := storeAndClient(t)
	fast, slow := limit(t, "fast", "3/s", 10), limit(t, "slow", "7/h", 10)
	expiry := func(client string) time.Duration {
		return c.PExpireTime(t.Context(), redisstore.RedisKey(key(client))).Val()
	}
	fullAt := func(l domain.Limit, b domain.Bucket) time.Duration { // rounded up to a millisecond
		return (time.Duration(l.FullAt(b))*time.Microsecond + time.Millisecond - 1).Truncate(time.Millisecond)
	}

	r := takeOne(t, s, "a", 3, fast, slow)
	whole := fullAt(slow, r.Buckets[1])
	assert.Equal(t, whole, expiry("a"))

	takeOne(t, s, "a", 1, fast)
	assert.Equal(t, whole, expiry("a"), "a node that knows the fast limit alone does not shorten it")

	r = takeOne(t, s, "a", 1, fast, slow)
	assert.Equal(t, fullAt(slow, r.Buckets[1]), expiry("a"))
	assert.Greater(t, expiry("a"), whole, "a poorer bucket is kept longer")

	refund := take("a", 1, slow)
	refund.Op = domain.OpRefund
	before := expiry("a")
	require.NoError(t, ports.Take(t.Context(), s, refund).Err)
	assert.Equal(t, before, expiry("a"), "a richer one is not kept shorter")
}

func TestScript_respectsTheExpiryOfFieldsThatAreNotOurs(t *testing.T) {
	s, c := storeAndClient(t)
	l := limit(t, "burst", "1/s", 10)
	foreign := func(client string, ttl time.Duration) time.Duration {
		k := redisstore.RedisKey(key(client))
		require.NoError(t, c.HSet(t.Context(), k, "q:monthly", "7").Err())
		require.NoError(t, c.PExpire(t.Context(), k, ttl).Err())
		before := c.PExpireTime(t.Context(), k).Val()
		takeOne(t, s, client, 5, l)
		require.Equal(t, "7", c.HGet(t.Context(), k, "q:monthly").Val())
		return c.PExpireTime(t.Context(), k).Val() - before
	}
	assert.Zero(t, foreign("long", time.Hour), "a longer expiry stays")
	assert.Positive(t, foreign("short", time.Second), "a shorter one is put off until our bucket is full")
}

func TestScript_idleBucketVanishes(t *testing.T) {
	s, c := storeAndClient(t)
	l := limit(t, "burst", "1000/s", 20)
	takeOne(t, s, "a", 20, l)
	assert.Eventually(t, func() bool {
		return c.Exists(t.Context(), redisstore.RedisKey(key("a"))).Val() == 0
	}, patient, time.Millisecond, "20 tokens fill in 20 ms by the server's own clock")
	assert.Equal(t, domain.Tokens(19), l.Remaining(takeOne(t, s, "a", 1, l).Buckets[0]))
}

func TestScript_denialOnASkewedBucketBringsItsTimeBack(t *testing.T) {
	s, c := storeAndClient(t)
	l := limit(t, "burst", "1/s", 10)
	now := takeOne(t, s, "other", 1, l).Now
	hourAhead := now.Add(time.Hour)
	require.NoError(t, c.HSet(t.Context(), redisstore.RedisKey(key("a")), "b:burst",
		fmt.Sprintf("0:%d:%d", hourAhead, l.TokenCredits())).Err())
	r := takeOne(t, s, "a", 1, l)
	require.Equal(t, domain.Denied, r.Verdict)
	assert.Equal(t, fmt.Sprintf("0:%d:%d", r.Now, l.TokenCredits()), level(t, c, "a", "burst"))
	assert.Equal(t, time.Second, l.RetryAfter(r.Buckets[0], 1, r.Now), "not an hour and a second")
}

func TestEncode_sendsWhatRepeatsOnce(t *testing.T) {
	l, m := limit(t, "burst", "1/h", 10), limit(t, "burst", "1/m", 10)
	shared := []domain.Limit{l}
	const (
		first  = "1 b:burst 10 3600000000 1 1"
		second = "1 b:burst 10 60000000 1 1"
	)
	for want, reqs := range map[string][]ports.TakeRequest{
		"2 velocity:{a} velocity:{b} 1 1 " + first + " 1 0 1 1": {
			{Key: "a", Limits: shared, Cost: 1},
			{Key: "b", Limits: []domain.Limit{l}, Cost: 1},
		},
		"4 velocity:{a} velocity:{b} velocity:{c} velocity:{a} 1 2 " + first + " " + second +
			" 3 0 1 1 0 1 2 2 3 1 1 2 3 1": {
			{Key: "a", Limits: shared, Cost: 1},
			{Key: "b", Limits: []domain.Limit{m}, Cost: 1},
			{Key: "c", Limits: shared, Cost: 3, Op: domain.OpRefund},
			{Key: "a", Limits: []domain.Limit{l}, Cost: 1},
		},
	} {
		assert.Equal(t, want, shownArguments(t, redisstore.Encode("source", reqs)[2:]))
	}
}

func shownArguments(t *testing.T, args []any) string {
	var shown []string
	for _, a := range args {
		if m, ok := a.(encoding.BinaryMarshaler); ok {
			text, err := m.MarshalBinary()
			require.NoError(t, err)
			a = string(text)
		}
		shown = append(shown, fmt.Sprint(a))
	}
	return strings.Join(shown, " ")
}
