package script_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// What the script does to a real server, seen from beside the store.

func storeAndClient(t *testing.T, opts ...redistest.Option) (store, *redis.Client) {
	server := redistest.Start(t, opts...)
	c := plainClient(t, server.Addr)
	return store{script.New(script.Source), c}, c
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
		assert.Equal(t, want, l.Remaining(takeOne(t, s, "a", 1, l).States[0]))
		require.NoError(t, c.ScriptFlush(t.Context()).Err())
	}
	assert.Equal(t, "3", calls(t, c, "eval"), "each flush costs one EVAL")
}

func TestScript_refusesAnotherVersionBeforeAnythingIsDone(t *testing.T) {
	_, c := storeAndClient(t)
	l := limit(t, "burst", "1/h", 10)
	args := script.NewCommand().Encode(script.New(script.Source), true, []*script.Group{{Request: take("a", 1, l)}}, 0)
	args[4] = 1 // after the command, the source, the number of keys and the key
	err := c.Do(t.Context(), args...).Err()
	require.ErrorContains(t, err, "version")
	assert.ErrorIs(t, failure.Classify(err).Effect, ports.ErrNotRun)
	assert.Zero(t, c.DBSize(t.Context()).Val())
}

func TestScript_aGroupThatCannotBeReadLeavesItsNeighboursDecided(t *testing.T) {
	s, c := storeAndClient(t)
	burst, daily := limit(t, "burst", "1/h", 10), limit(t, "daily", "1/24h", 100)
	require.NoError(t, c.Set(t.Context(), script.RedisKey(key("string")), "x", 0).Err())
	corrupt := []string{
		"", "x", "1:2", "1:2:", "1:2:x", "1.5:2:3", "1:2:3x", " 1:2:3", "1:-2:3", "1:2:-3", "1:2:0", "nan:1:1", "1e3:1:1", "0x1:1:1",
		"4503599627370497:1:1", "-4503599627370497:1:1", "1:9007199254740992:1", "1:1:4503599627370497",
		strings.Repeat("9", 400) + ":1:1", "1:2:3\x00",
	}
	reqs := []ports.TakeRequest{take("first", 1, burst, daily), take("string", 1, burst, daily)}
	for i, value := range corrupt {
		name := fmt.Sprintf("corrupt-%d", i)
		require.NoError(t, c.HSet(t.Context(), script.RedisKey(key(name)), "b:daily", value).Err())
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
	assert.Equal(t, domain.Tokens(9), burst.Remaining(results[0].States[0]))
	assert.Equal(t, domain.Denied, results[len(results)-1].Verdict, "10 of %d takes passed", len(corrupt))
	for i, value := range corrupt {
		stored := c.HGetAll(t.Context(), script.RedisKey(key(fmt.Sprintf("corrupt-%d", i)))).Val()
		assert.Equal(t, map[string]string{"b:daily": value}, stored, "nothing is half written")
	}

	reset := take("corrupt-0", 0, daily)
	reset.Op = domain.OpReset
	require.NoError(t, ports.Take(t.Context(), s, reset).Err, "a reset repairs it")
	assert.Equal(t, domain.Tokens(99), daily.Remaining(takeOne(t, s, "corrupt-0", 1, daily).States[0]))
}

func TestScript_aGroupThatFailsLateLeavesNothingBehind(t *testing.T) {
	s, c := storeAndClient(t)
	limits := []domain.Limit{limit(t, "a", "1/h", 10), limit(t, "b", "1/h", 10), limit(t, "c", "1/h", 10), limit(t, "d", "1/h", 10)}
	timed := []domain.Limit{limits[0], quota(t, "e", 10, "day"), limits[3]} // in the reply the quota's time is after all levels
	require.NoError(t, c.HSet(t.Context(), script.RedisKey(key("bad")), "b:d", "x").Err())
	for _, reqs := range [][]ports.TakeRequest{
		{take("bad", 1, limits...)},
		{take("bad", 1, limits...), take("good", 1, limits[0])},
		{take("bad", 1, timed...)},
		{take("bad", 1, timed...), take("good", 1, limits[0])},
		{take("good", 1, limits[1]), take("bad", 1, timed...), take("good", 1, timed[1])},
	} {
		results := make([]ports.TakeResult, len(reqs))
		s.TakeMany(t.Context(), reqs, results)
		for i, r := range results {
			if reqs[i].Key == key("bad") {
				require.ErrorIs(t, r.Err, ports.ErrCorrupt, "though others were read before the last limit")
			} else {
				require.NoError(t, r.Err)
			}
		}
	}
}

func TestScript_readsPastAFurtherColon(t *testing.T) {
	s, c := storeAndClient(t)
	l := limit(t, "burst", "1/h", 10)
	now := takeOne(t, s, "other", 1, l).Now
	value := fmt.Sprintf("%d:%d:%d:w=7:whatever", 3*l.TokenBucket().TokenCredits(), now, l.TokenBucket().TokenCredits())
	require.NoError(t, c.HSet(t.Context(), script.RedisKey(key("a")), "b:burst", value).Err())
	assert.Equal(t, domain.Tokens(2), l.Remaining(takeOne(t, s, "a", 1, l).States[0]))
}

func TestScript_writesLargeNumbersInFull(t *testing.T) {
	s, c := storeAndClient(t)
	l, err := domain.NewBucket("huge", 1, 1, (1<<51+1)*time.Microsecond) // a token in 71 years: p is 2^51 + 1
	require.NoError(t, err)
	charge := take("a", 1, l)
	charge.Op = domain.OpCharge
	require.NoError(t, ports.Take(t.Context(), s, charge).Err)
	r := ports.Take(t.Context(), s, charge)
	require.NoError(t, r.Err)
	require.Greater(t, -r.States[0].Amount, domain.Credits(1_000_000_000_000_000))
	want := fmt.Sprintf("%d:%d:%d", r.States[0].Amount, r.States[0].At, l.TokenBucket().TokenCredits())
	stored, _ := splitExpiry(t, "b:huge", level(t, c, "a", "huge"))
	assert.Equal(t, want, stored)
}

func TestScript_denialOnASkewedBucketBringsItsTimeBack(t *testing.T) {
	s, c := storeAndClient(t)
	l := limit(t, "burst", "1/s", 10)
	now := takeOne(t, s, "other", 1, l).Now
	hourAhead := now.Add(time.Hour)
	require.NoError(t, c.HSet(t.Context(), script.RedisKey(key("a")), "b:burst",
		fmt.Sprintf("0:%d:%d", hourAhead, l.TokenBucket().TokenCredits())).Err())
	r := takeOne(t, s, "a", 1, l)
	require.Equal(t, domain.Denied, r.Verdict)
	stored, _ := splitExpiry(t, "b:burst", level(t, c, "a", "burst"))
	assert.Equal(t, fmt.Sprintf("0:%d:%d", r.Now, l.TokenBucket().TokenCredits()), stored)
	assert.Equal(t, time.Second, l.RetryAfter(r.States[0], 1, 0, r.Now), "not an hour and a second")
}
