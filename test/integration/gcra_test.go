package integration

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/throttled/throttled/v2"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// start is when each comparison with another limiter begins.
const start domain.Instant = 1_700_000_000_000_000

// bucket is a bucket of one limit.
type bucket struct {
	limit  domain.Limit
	stored domain.State
}

// take takes tokens and returns the bucket as seen at now, after the operation.
func (b *bucket) take(cost domain.Tokens, now domain.Instant) (domain.Verdict, domain.State) {
	seen := []domain.State{b.stored}
	verdict, write := domain.Apply(domain.Operation{Op: domain.OpTake, Cost: cost}, []domain.Limit{b.limit}, seen, nil, now)
	if write {
		b.stored = seen[0]
	}
	return verdict, seen[0]
}

// gcraStore keeps one key for throttled, under a clock that the test sets.
type gcraStore struct {
	now time.Time
	tat int64 // -1: none
}

func (s *gcraStore) GetWithTime(context.Context, string) (int64, time.Time, error) {
	return s.tat, s.now, nil
}

func (s *gcraStore) SetIfNotExistsWithTTL(_ context.Context, _ string, value int64, _ time.Duration) (bool, error) {
	s.tat = value
	return true, nil
}

func (s *gcraStore) CompareAndSwapWithTTL(_ context.Context, _ string, _, value int64, _ time.Duration) (bool, error) {
	s.tat = value
	return true, nil
}

// The generic cell rate algorithm keeps one instant instead of a level, so it shares no code or state with a
// bucket. Where a token takes a whole number of nanoseconds it is exact, and the two must agree on the verdict, what
// remains, and every wait.
func TestTake_agreesWithThrottledsGCRA(t *testing.T) {
	const runs, stepsPerRun = 2000, 550
	verdicts := map[domain.Verdict]int{}
	for seed := range uint64(runs) {
		compareWithGCRA(t, rand.New(rand.NewPCG(seed, 1)), stepsPerRun, verdicts)
	}
	t.Logf("%d limits: %d allowed, %d denied", runs, verdicts[domain.Allowed], verdicts[domain.Denied])
	require.GreaterOrEqual(t, verdicts[domain.Allowed]+verdicts[domain.Denied], 1_000_000)
	require.Greater(t, verdicts[domain.Denied], 100_000)
}

func compareWithGCRA(t *testing.T, rng *rand.Rand, steps int, verdicts map[domain.Verdict]int) {
	l, interval := limitWithWholeTokenTime(rng)
	store := &gcraStore{tat: -1}
	quota := throttled.RateQuota{MaxRate: throttled.PerDuration(1, interval), MaxBurst: int(l.Capacity()) - 1}
	oracle, err := throttled.NewGCRARateLimiterCtx(store, quota)
	require.NoError(t, err)

	const longest = int64(100 * 24 * time.Hour) // so that the comparison ends within the oracle's range, in the year 2262
	b, now := bucket{limit: l}, start
	upToTick := func(d time.Duration) time.Duration {
		return ceilTo(d, time.Duration(l.TokenBucket().TickMicros())*time.Microsecond)
	}
	for step := range steps {
		cost := randomCost(rng, l.Capacity())
		// Only at whole ticks: between them the oracle refills, but the bucket does not.
		ticks := rng.Int64N(1 + min(int64(interval)*int64(cost)*5/4, longest)/int64(time.Microsecond)/l.TokenBucket().TickMicros())
		now += domain.Instant(ticks * l.TokenBucket().TickMicros())
		store.now = now.Time()

		limited, want, err := oracle.RateLimitCtx(t.Context(), "", int(cost))
		require.NoError(t, err)
		verdict, seen := b.take(cost, now)
		verdicts[verdict]++
		s := l.Status(seen, now, cost, 0, verdict == domain.Allowed)
		retry := time.Duration(0)
		if limited {
			retry = upToTick(want.RetryAfter)
		}
		if s.Allowed == limited || s.Remaining != domain.Tokens(want.Remaining) || s.RetryAfter != retry ||
			s.ResetAfter != upToTick(want.ResetAfter) {
			require.Fail(t, "disagree", "%s, step %d, cost %d: oracle %v %+v, bucket %+v", l.String(), step, cost, limited, want, s)
		}
	}
}

// limitWithWholeTokenTime returns a limit whose token takes a whole number of nanoseconds, and that time.
func limitWithWholeTokenTime(rng *rand.Rand) (domain.Limit, time.Duration) {
	for {
		per := []time.Duration{time.Microsecond, 10 * time.Microsecond, time.Millisecond, 100 * time.Millisecond, time.Second, time.Minute, time.Hour, 24 * time.Hour}[rng.IntN(8)]
		per *= time.Duration(1 + rng.IntN(20))
		refill := 1 + rng.Int64N([]int64{3, 100, 100_000}[rng.IntN(3)])
		capacity := 1 + rng.Int64N([]int64{5, 1000, 10_000_000_000}[rng.IntN(3)])
		interval := per / time.Duration(refill)
		if int64(per)%refill != 0 || interval > time.Duration(1<<60)/time.Duration(capacity) {
			continue // not whole, or beyond the oracle's range
		}
		if l, err := domain.NewBucket("l", domain.Tokens(capacity), domain.Tokens(refill), per); err == nil {
			return l, interval
		}
	}
}

// randomCost returns a cost from 1 to the capacity, mostly at most a quarter of it.
func randomCost(rng *rand.Rand, capacity domain.Tokens) domain.Tokens {
	most := min(capacity, domain.MaxCost)
	if rng.IntN(4) > 0 {
		most = max(1, most/4)
	}
	return 1 + domain.Tokens(rng.Int64N(int64(most)))
}

func ceilTo(d, unit time.Duration) time.Duration {
	if rest := d % unit; rest > 0 {
		return d - rest + unit
	}
	return d
}
