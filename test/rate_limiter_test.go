package test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// newLimiter composes a limiter of this rate over a real Redis of its own. The policy is closed and the time of a
// take long, so that only Redis ever allows.
func newLimiter(t *testing.T, capacity, refill domain.Tokens, per time.Duration) (*app.RateLimiter, domain.Limit) {
	t.Helper()
	cfg := redisstore.DefaultConfig(redistest.Start(t).Addr)
	cfg.TakeTimeout = patience
	store, err := redisstore.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	local, err := memstore.New(memstore.DefaultConfig())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, local.Close()) })

	limit, err := domain.NewLimit("", capacity, refill, per)
	require.NoError(t, err)
	policies, err := app.NewSinglePolicy(domain.Policy{
		Name: domain.DefaultPolicyName, Limits: []domain.Limit{limit}, OnStoreFailure: domain.FailClosed,
	})
	require.NoError(t, err)
	return app.NewRateLimiter(store, local, policies, failureReporter{t}), limit
}

// failureReporter fails the test when the store does.
type failureReporter struct{ t *testing.T }

func (failureReporter) Decided(*domain.Request, *domain.Decision) {}

func (r failureReporter) StoreFailed(_ string, _ domain.FailureMode, cause error) {
	assert.NoError(r.t, cause, "the store failed")
}

// A hundred goroutines ask at the same moment for one user, whose bucket holds ten tokens. Refill and consumption
// are one atomic step of the script, so exactly ten pass.
func TestRateLimitConcurrency(t *testing.T) {
	const capacity, goroutines = 10, 100
	limiter, _ := newLimiter(t, capacity, 1, time.Hour)
	var (
		gun, wg         sync.WaitGroup
		allowed, denied atomic.Int64
	)
	gun.Add(1)
	for range goroutines {
		wg.Go(func() {
			gun.Wait()
			ok, err := limiter.Allow(t.Context(), "user-1")
			switch {
			case !assert.NoError(t, err):
			case ok:
				allowed.Add(1)
			default:
				denied.Add(1)
			}
		})
	}
	gun.Done()
	wg.Wait()
	assert.EqualValues(t, capacity, allowed.Load())
	assert.EqualValues(t, goroutines-capacity, denied.Load())
}

// A drained bucket gets back what the rate says for the time that passed by the store's own clock, neither more
// nor less.
func TestRateLimitRefill(t *testing.T) {
	const capacity = 10
	limiter, limit := newLimiter(t, capacity, 5, time.Second)
	id := ports.ClientID{Policy: domain.DefaultPolicyName, Key: "user-1"}
	look := func() ports.BucketReport {
		report, err := limiter.Inspect(t.Context(), id)
		require.NoError(t, err)
		return report
	}
	drain := func() (allowed int) {
		for {
			ok, err := limiter.Allow(t.Context(), id.Key)
			require.NoError(t, err)
			if !ok {
				return allowed
			}
			allowed++
			require.Less(t, allowed, 10*capacity, "the bucket has no bottom")
		}
	}

	before := look()
	first := drain()
	drained := look()
	assert.GreaterOrEqual(t, first, capacity)
	assert.LessOrEqual(t, first, capacity+refilled(limit, drained.Now.Sub(before.Now)))

	var rested ports.BucketReport
	require.Eventually(t, func() bool {
		rested = look()
		return rested.Now.Sub(drained.Now) >= time.Second
	}, patience, tick)
	level := limit.Seen(drained.Limits[0].Bucket, rested.Now)
	assert.Equal(t, level, rested.Limits[0].Bucket, "exactly what the rate gives for that time")
	back := limit.Remaining(level)
	assert.GreaterOrEqual(t, back, domain.Tokens(5), "a second's worth")
	assert.LessOrEqual(t, back, domain.Tokens(capacity))

	second := drain()
	assert.GreaterOrEqual(t, second, int(back), "all that came back can be spent")
	assert.LessOrEqual(t, second, int(back)+refilled(limit, look().Now.Sub(rested.Now)))
}

// refilled is how many tokens come back in so long a time at most, rounded up.
func refilled(limit domain.Limit, elapsed time.Duration) int {
	refill, per := limit.Rate()
	return int((int64(elapsed)*int64(refill) + int64(per) - 1) / int64(per))
}
