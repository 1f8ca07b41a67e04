package redisstore_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

var equalCalls = flag.Int("equal.calls", 60, "how many random calls are made of stores that fold equal requests, and of one that does not")

// timedStore is a store whose script has the time written into it.
type timedStore struct {
	*redisstore.Store
	setNow func(domain.Instant)
}

func newTimedStore(t *testing.T, cfg redisstore.Config, now domain.Instant) timedStore {
	t.Helper()
	s, setNow, err := redisstore.NewWithWrittenClock(cfg, now)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return timedStore{s, setNow}
}

func TestEqualRequests_areAnsweredAsSeparateOnes(t *testing.T) {
	_, addrs := redistest.StartN(t, 4)
	compareWithSeparate(t, config(addrs[0]), config(addrs[1]))
	compareWithSeparate(t, config(addrs[0]), config(addrs[1:]...))
}

// compareWithSeparate makes the same random calls of a store in which equal requests are one group, and of one in which each
// request is a group of its own. All answers are the same, and so is what is stored after each call.
func compareWithSeparate(t *testing.T, alone, folding redisstore.Config) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	now := domain.InstantOf(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC))
	want, got := newTimedStore(t, redisstore.WithSeparateRequests(alone), now), newTimedStore(t, folding, now)
	stored, sets, prefix := 0, equalSets(t), fmt.Sprintf("equal-%d", seed)
	for range *equalCalls {
		now = now.Add(time.Duration(rnd.Int64N(int64(3*time.Hour))) - 20*time.Minute) // at times back
		want.setNow(now)
		got.setNow(now)
		reqs := equalRequests(rnd, sets, prefix)
		a, b := make([]ports.TakeResult, len(reqs)), make([]ports.TakeResult, len(reqs))
		want.TakeMany(t.Context(), reqs, a)
		got.TakeMany(t.Context(), reqs, b)
		for i := range reqs {
			require.NoError(t, a[i].Err)
			require.Equal(t, a[i], b[i], "request %d of %d: %+v", i, len(reqs), reqs[i])
		}
		for i := range sets {
			k := equalKey(prefix, i)
			a, b := storedGroup(t, want, k), storedGroup(t, got, k)
			require.Equal(t, a, b, "what is stored for %s", k)
			stored += len(a)
		}
	}
	require.NotZero(t, stored)
}

// equalSets are limits of each kind, alone and together.
func equalSets(t *testing.T) [][]domain.Limit {
	dailySchedule, err := calendar.Parse("day", "Europe/Berlin", "")
	require.NoError(t, err)
	daily, err := domain.NewQuota("daily", 300, dailySchedule)
	require.NoError(t, err)
	burst, fine := limit(t, "burst", "50/h", 40), limit(t, "fine", "1000003/8760h", 500) // ticks of a microsecond and of a millisecond
	own, err := burst.WithCost(3)
	require.NoError(t, err)
	held := concurrency(t, "held", 5, time.Minute)
	return [][]domain.Limit{{burst}, {fine}, {daily}, {burst, daily}, {fine, burst}, {own, daily}, {held}, {burst, held}}
}

func equalKey(prefix string, set int) clientkey.BucketKey {
	return key(fmt.Sprintf("%s-%d", prefix, set))
}

// equalRequests are runs of equal requests of few keys, with others between them.
func equalRequests(rnd *rand.Rand, sets [][]domain.Limit, prefix string) []ports.TakeRequest {
	ops := []domain.Op{
		domain.OpTake, domain.OpTake, domain.OpTake, domain.OpTake, domain.OpPeek, domain.OpRefund, domain.OpCharge, domain.OpUndo,
		domain.OpRelease, domain.OpReset,
	}
	reqs := make([]ports.TakeRequest, 1+rnd.IntN(2*script.MaxGroups))
	for i := range reqs {
		if i > 0 && rnd.IntN(4) > 0 {
			reqs[i] = reqs[max(0, i-1-rnd.IntN(4))]
		} else {
			set := rnd.IntN(len(sets))
			reqs[i] = ports.TakeRequest{
				Op: ops[rnd.IntN(len(ops))], Key: equalKey(prefix, set), Limits: sets[set], Cost: 1 + domain.Tokens(rnd.IntN(9)),
			}
			if rnd.IntN(3) == 0 {
				reqs[i].MaxWait = time.Duration(rnd.IntN(30)) * time.Second
			}
		}
		reqs[i].Permit = fmt.Sprintf("id-%d", rnd.IntN(12))
	}
	return reqs
}

// storedGroup is what a store keeps of a group, without the expiries cached in it: of several requests in one group only the
// last state is stored, so the store may have found no reason to postpone them.
func storedGroup(t *testing.T, s timedStore, k clientkey.BucketKey) map[string]string {
	c := s.Manager().GetClient(string(k))
	fields, err := c.HGetAll(t.Context(), script.RedisKey(k)).Result()
	require.NoError(t, err)
	for field, value := range fields {
		parts := map[byte]int{'b': 3, 'q': 2}[field[0]]
		fields[field] = strings.Join(strings.Split(value, ":")[:parts], ":")
	}
	held, err := c.ZRangeArgsWithScores(t.Context(), redis.ZRangeArgs{Key: script.PermitsKey(k, "held"), Start: 0, Stop: -1}).Result()
	require.NoError(t, err)
	for _, p := range held {
		fields[fmt.Sprint("permit ", p.Member)] = fmt.Sprint(int64(p.Score))
	}
	return fields
}
