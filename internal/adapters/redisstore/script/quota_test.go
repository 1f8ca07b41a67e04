package script_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func operation(op domain.Op, client string, cost domain.Tokens, limits ...domain.Limit) ports.TakeRequest {
	req := take(client, cost, limits...)
	req.Op = op
	return req
}

func TestQuota_keyLivesUntilThePeriodEnds(t *testing.T) {
	s, c := storeAndClient(t)
	monthly, burst := quota(t, "monthly", 1000, "month"), limit(t, "burst", "5/s", 10)
	for name, limits := range map[string][]domain.Limit{
		"alone": {monthly}, "first": {monthly, burst}, "second": {burst, monthly}, "of two": {monthly, quota(t, "daily", 100, "day")},
	} {
		first := requireExpiry(t, c, name, limits, takeOne(t, s, name, 1, limits...))
		_, end, _ := monthly.Quota().Periods().At(domain.InstantOf(time.Now()))
		assert.Equal(t, end.Add(time.Minute), domain.Instant(first*1000), "%s: the end of the month, and the margin", name)
		for range 3 {
			takeOne(t, s, name, 1, limits...)
		}
		assert.Equal(t, first, expiry(t, c, name), name)

		require.NoError(t, ports.Take(t.Context(), s, operation(domain.OpRefund, name, 4, limits...)).Err)
		assert.Equal(t, first, expiry(t, c, name), "%s: what says nothing any more may stay", name)
	}
	assert.Equal(t, "4", calls(t, c, "pexpireat"), "one for each key: the cached expiry is late enough")
}

// A key that was kept for a shorter time lives as long as the quota that joins it, whatever was cached.
func TestQuota_postponesTheExpiryOfABucketOfVersion2(t *testing.T) {
	burst, daily := limit(t, "burst", "5/s", 10), quota(t, "daily", 100, "day")
	for _, limits := range [][]domain.Limit{{burst, daily}, {daily, burst}} {
		s, c := storeAndClient(t)
		now := takeOne(t, s, "other", 1, burst).Now
		k := script.RedisKey(key("a"))
		soon := int64(now)/1000 + 1500
		value := fmt.Sprintf("%d:%d:%d:%d", 4*burst.TokenBucket().TokenCredits(), now, burst.TokenBucket().TokenCredits(), soon)
		require.NoError(t, c.HSet(t.Context(), k, "b:burst", value).Err())
		require.NoError(t, c.Do(t.Context(), "PEXPIREAT", k, soon).Err())

		r := takeOne(t, s, "a", 1, limits...)
		requireExpiry(t, c, "a", limits, r)
		for i, left := range map[string]domain.Tokens{"burst": 3, "daily": 99} {
			for j := range limits {
				if limits[j].Name() == i {
					assert.Equal(t, left, limits[j].Remaining(r.States[j]), i)
				}
			}
		}
	}
}

func TestQuota_cachedExpiryThatCannotBeTrueIsNotBelieved(t *testing.T) {
	daily := quota(t, "daily", 100, "day")
	for name, cached := range map[string]string{
		"none": "", "no number": ":soon", "too early": ":1700000000000", "no end to it": ":" + strings.Repeat("9", 400),
	} {
		for _, limits := range [][]domain.Limit{{daily}, {daily, limit(t, "burst", "5/s", 10)}} {
			s, c := storeAndClient(t)
			now := takeOne(t, s, "other", 1, daily).Now
			require.NoError(t, c.HSet(t.Context(), script.RedisKey(key("a")), "q:daily", fmt.Sprintf("7:%d%s", now, cached)).Err())
			r := takeOne(t, s, "a", 1, limits...)
			assert.Equal(t, domain.Tokens(92), daily.Remaining(r.States[0]), name)
			requireExpiry(t, c, "a", limits, r)
		}
	}
}

func TestQuota_aValueThatCannotBeReadFailsItsGroupAlone(t *testing.T) {
	s, c := storeAndClient(t)
	daily, burst := quota(t, "daily", 100, "day"), limit(t, "burst", "1/h", 10)
	for i, value := range []string{
		"", "x", "1", "1:", "1:x", "-1:2", "1:-2", "1.5:2", "1e3:2", " 1:2", "9007199254740993:1", "1:9007199254740992",
		strings.Repeat("9", 400) + ":1", "1:2\x00",
	} {
		name := fmt.Sprintf("corrupt-%d", i)
		require.NoError(t, c.HSet(t.Context(), script.RedisKey(key(name)), "q:daily", value).Err())
		results := make([]ports.TakeResult, 4)
		s.TakeMany(t.Context(), []ports.TakeRequest{
			take("good", 1, daily), take(name, 1, daily), take(name, 1, burst, daily), take("good", 1, daily),
		}, results)
		for slot, want := range []error{nil, ports.ErrCorrupt, ports.ErrCorrupt, nil} {
			require.ErrorIs(t, results[slot].Err, want, "%q in slot %d", value, slot)
		}
		stored := c.HGetAll(t.Context(), script.RedisKey(key(name))).Val()
		assert.Equal(t, map[string]string{"q:daily": value}, stored, "nothing is half written")
	}
	require.NoError(t, ports.Take(t.Context(), s, operation(domain.OpReset, "corrupt-0", 0, daily)).Err)
	assert.Equal(t, domain.Tokens(99), daily.Remaining(takeOne(t, s, "corrupt-0", 1, daily).States[0]), "a reset repairs it")
}

// withServerClock returns a store on a server whose clock stands still.
func withServerClock(t *testing.T, now domain.Instant) store {
	server := redistest.Start(t)
	return store{script.New(withClock(fmt.Sprintf("local now_us = %d", now))), plainClient(t, server.Addr)}
}

func TestQuota_groupsOfAWrongPeriodAreLeftAlone(t *testing.T) {
	now := domain.InstantOf(time.Date(2040, 1, 1, 12, 30, 0, 0, time.UTC))
	s := withServerClock(t, now)
	hourly, yearly, burst := quota(t, "hourly", 10, "hour"), quota(t, "yearly", 10, "year"), limit(t, "burst", "5/s", 10)
	reqs := []ports.TakeRequest{
		take("a", 1, burst),
		take("b", 1, burst, hourly),
		take("b", 1, burst), // after a group of its key that was not decided
		operation(domain.OpPeek, "c", 0, hourly),
		operation(domain.OpReset, "d", 0, hourly),
		take("e", 1, yearly),
	}
	refused := []bool{false, true, true, true, true, false}
	for known, wrong := range map[time.Duration]bool{
		-31 * time.Minute: false, // the period before: now is in the next one
		-91 * time.Minute: true,
		29 * time.Minute:  false,
		30 * time.Minute:  true,
	} {
		require.NoError(t, s.client.FlushDB(t.Context()).Err())
		groups := groupsOf(reqs, nil)
		require.NoError(t, s.Decide(t.Context(), s.client, "server", groups, now.Add(known)))
		for i, g := range groups {
			assert.Equal(t, now, g.Result.Now)
			if wrong && refused[i] {
				require.ErrorIs(t, g.Result.Err, script.ErrWrongPeriod, "slot %d at %v", i, known)
				require.ErrorIs(t, g.Result.Err, ports.ErrUnavailable)
				continue
			}
			require.NoError(t, g.Result.Err, "slot %d at %v", i, known)
		}
		untouched := s.client.Exists(t.Context(), script.RedisKey(key("b"))).Val() == 0
		assert.Equal(t, wrong, untouched, "at %v", known)
	}
}

func TestQuota_aClientTakesLittleMemory(t *testing.T) {
	s, c := storeAndClient(t)
	monthly := quota(t, "monthly", 1_000_000, "month")
	takeOne(t, s, "192.0.2.123", 123_456, monthly)
	used, err := c.MemoryUsage(t.Context(), script.RedisKey(key("192.0.2.123"))).Result()
	require.NoError(t, err)
	assert.LessOrEqual(t, used, int64(256))
}

func TestQuota_denialAheadOfTheClockBringsItsTimeBack(t *testing.T) {
	s, c := storeAndClient(t)
	yearly := quota(t, "yearly", 10, "year")
	now := takeOne(t, s, "other", 1, yearly).Now
	k := script.RedisKey(key("a"))
	require.NoError(t, c.HSet(t.Context(), k, "q:yearly", fmt.Sprintf("10:%d", now.Add(400*24*time.Hour))).Err())
	r := takeOne(t, s, "a", 1, yearly)
	require.Equal(t, domain.Denied, r.Verdict)
	stored, _ := splitExpiry(t, "q:yearly", c.HGet(t.Context(), k, "q:yearly").Val())
	assert.Equal(t, fmt.Sprintf("10:%d", r.Now), stored)
	requireExpiry(t, c, "a", []domain.Limit{yearly}, r)
}
