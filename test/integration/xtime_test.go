package integration

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// golang.org/x/time/rate computes in float64, and allows a request that is less than a nanosecond early. Levels agree within
// that tolerance, and verdicts differ only where the level is that close to the cost.
func TestTake_agreesWithXTimeRateWithinItsFloatError(t *testing.T) {
	verdicts := map[domain.Verdict]int{}
	for seed := range uint64(400) {
		compareWithXTimeRate(t, rand.New(rand.NewPCG(seed, 2)), verdicts)
	}
	t.Logf("%d allowed, %d denied", verdicts[domain.Allowed], verdicts[domain.Denied])
	require.Greater(t, verdicts[domain.Denied], 10_000)
	require.Greater(t, verdicts[domain.Allowed], 10_000)
}

func compareWithXTimeRate(t *testing.T, rng *rand.Rand, verdicts map[domain.Verdict]int) {
	per := []time.Duration{time.Millisecond, 250 * time.Millisecond, time.Second, time.Minute, time.Hour}[rng.IntN(5)]
	refill, capacity := 1+rng.IntN(1000), 1+rng.IntN(10_000)
	l, err := domain.NewBucket("l", domain.Tokens(capacity), domain.Tokens(refill), per)
	require.NoError(t, err)
	perSecond := float64(refill) / per.Seconds()
	tolerance := 1e-6 + perSecond*2e-9 // of a token

	b, oracle, now := bucket{limit: l}, rate.NewLimiter(rate.Limit(perSecond), capacity), start
	for range 200 {
		cost := 1 + rng.IntN(max(1, capacity/2))
		now = now.Add(time.Duration(rng.Float64() * 1.25 * float64(cost) / perSecond * float64(time.Second)))
		seen := l.Current(b.stored, now)
		level := float64(seen.Amount) / float64(l.TokenBucket().TokenCredits())
		require.InDelta(t, oracle.TokensAt(now.Time()), level, tolerance, l.String())

		verdict, _ := b.take(domain.Tokens(cost), now)
		verdicts[verdict]++
		if oracle.AllowN(now.Time(), cost) != (verdict == domain.Allowed) {
			require.LessOrEqual(t, math.Abs(level-float64(cost)), tolerance, l.String())
			return // from here the two levels differ by the cost
		}
	}
}
