package compatibility

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// 1,000 calls of one descriptor and one hit get the same from quotas as from theirs.
func (p *pair) thousandCalls(t *testing.T) {
	units := []string{"hour", "day", "week", "month", "year", "foo=x, bar"}
	within(t, time.Hour, func(round int) {
		random := rand.New(rand.NewPCG(1, 2))
		denied := 0
		for range 1000 {
			r := request(0, fmt.Sprintf("%s=%s-%d", units[random.IntN(len(units))], apart(round), random.IntN(4)))
			if p.sameOfQuota(t, r) == rlsv3.RateLimitResponse_OVER_LIMIT {
				denied++
			}
		}
		assert.Greater(t, denied, 300)
		assert.Less(t, denied, 700)
	})
}

// A minute's window ends when theirs does.
func (p *pair) minutes(t *testing.T) {
	const ok, over = rlsv3.RateLimitResponse_OK, rlsv3.RateLimitResponse_OVER_LIMIT
	var r *rlsv3.RateLimitRequest
	within(t, time.Minute, func(round int) {
		r = request(0, "minute="+apart(round))
		end := time.Now().Truncate(time.Minute).Add(time.Minute)
		for _, want := range []rlsv3.RateLimitResponse_Code{ok, ok, ok, over} {
			require.Equal(t, want, p.sameOfQuota(t, r))
		}
		time.Sleep(time.Until(end.Add(-time.Second)))
		require.Equal(t, over, p.sameOfQuota(t, r), "a second before the end")
	})
	within(t, time.Minute, func(int) { require.Equal(t, ok, p.sameOfQuota(t, r), "in the next window") })
}

// sameOfQuota sends a request to both, and returns their answer: codes, limits, what is left, and the time until the window
// ends are the same.
func (p *pair) sameOfQuota(t *testing.T, r *rlsv3.RateLimitRequest) rlsv3.RateLimitResponse_Code {
	t.Helper()
	theirs, err := p.theirs.ShouldRateLimit(t.Context(), r)
	require.NoError(t, err)
	ours, err := p.ours.ShouldRateLimit(t.Context(), r)
	require.NoError(t, err)
	a, b := theirs.GetStatuses()[0], ours.GetStatuses()[0]
	require.Equal(t, theirs.GetOverallCode(), ours.GetOverallCode(), "%v", r)
	require.Equal(t, a.GetCode(), b.GetCode(), "%v", r)
	require.Equal(t, a.GetCurrentLimit().String(), b.GetCurrentLimit().String(), "%v", r)
	require.Equal(t, a.GetLimitRemaining(), b.GetLimitRemaining(), "%v", r)
	require.Zero(t, b.GetDurationUntilReset().GetNanos())
	between := a.GetDurationUntilReset().GetSeconds() - b.GetDurationUntilReset().GetSeconds()
	require.LessOrEqual(t, between, int64(1), "%v: ours is asked second", r)
	least := int64(0)
	if b.GetCode() == rlsv3.RateLimitResponse_OVER_LIMIT {
		least = -1 // the denial cache's clock is behind by up to the time of a call
	}
	require.GreaterOrEqual(t, between, least, "%v: ours is asked second", r)
	return ours.GetOverallCode()
}

// A quota of a window passes before its end, and the next one after it, as from theirs.
func (p *pair) windows(t *testing.T) {
	theirs, ours := p.aroundTheEdge(t)
	assert.Equal(t, 10, theirs)
	assert.Equal(t, 10, ours)
}

// Theirs counts a call that it denies, so that a smaller one, which would have fit, is denied too.
func (p *pair) denialTakesNothing(t *testing.T) {
	within(t, time.Hour, func(round int) {
		key := "hour=" + t.Name() + apart(round)
		for _, step := range []struct {
			hits         uint32
			theirs, ours string
		}{
			{15, "OK; OK 20/HOUR , 5 left", "OK; OK 20/HOUR , 5 left"},
			{6, "OVER_LIMIT; OVER_LIMIT 20/HOUR , 0 left", "OVER_LIMIT; OVER_LIMIT 20/HOUR , 5 left"},
			{5, "OVER_LIMIT; OVER_LIMIT 20/HOUR , 0 left", "OK; OK 20/HOUR , 0 left"},
		} {
			assert.Equal(t, step.theirs, verdict(t, p.theirs, request(step.hits, key)), "%d hits", step.hits)
			assert.Equal(t, step.ours, verdict(t, p.ours, request(step.hits, key)), "%d hits", step.hits)
		}
	})
}
