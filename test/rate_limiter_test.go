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
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/test/harness"
)

// newLimiter returns a limiter of this rate over a new Redis server. It fails closed after a long timeout, so that only
// Redis allows.
func newLimiter(t *testing.T, capacity, refill domain.Tokens, per time.Duration) (*app.RateLimiter, domain.Limit) {
	t.Helper()
	cfg := redisstore.DefaultConfig(redistest.Start(t).Addr)
	cfg.TakeTimeout = harness.Timeout
	store, err := redisstore.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	local, err := memstore.New(memstore.DefaultConfig())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, local.Close()) })

	limit, err := domain.NewBucket("default", capacity, refill, per)
	require.NoError(t, err)
	policies, err := app.NewSinglePolicy(policy.Policy{
		Name: policy.DefaultName, Limits: []domain.Limit{limit}, OnStoreFailure: policy.FailClosed,
	})
	require.NoError(t, err)
	return app.NewRateLimiter(store, local, policies, failureReporter{t}), limit
}

// failureReporter fails the test when the store does.
type failureReporter struct{ t *testing.T }

func (failureReporter) Decided(*policy.Request, *decision.Decision) {}

func (r failureReporter) StoreFailed(_ string, _ policy.FailureMode, cause error) {
	assert.NoError(r.t, cause, "the store failed")
}

// A hundred goroutines take a token of one user at the same moment. The bucket holds ten tokens. The script refills and
// takes in one atomic step, so exactly ten pass.
func TestRateLimitConcurrency(t *testing.T) {
	const capacity, goroutines = 10, 100
	limiter, _ := newLimiter(t, capacity, 1, time.Hour)
	var (
		start, wg       sync.WaitGroup
		allowed, denied atomic.Int64
	)
	start.Add(1)
	for range goroutines {
		wg.Go(func() {
			start.Wait()
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
	start.Done()
	wg.Wait()
	assert.EqualValues(t, capacity, allowed.Load())
	assert.EqualValues(t, goroutines-capacity, denied.Load())
}

// A drained bucket regains exactly what the rate gives for the time that passed on the store's clock.
func TestRateLimitRefill(t *testing.T) {
	const capacity = 10
	limiter, limit := newLimiter(t, capacity, 5, time.Second)
	id := ports.ClientID{Policy: policy.DefaultName, Key: "user-1"}
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
			require.Less(t, allowed, 10*capacity, "the bucket never gets empty")
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
	}, harness.Timeout, harness.Interval)
	level := limit.Current(drained.Limits[0].State, rested.Now)
	assert.Equal(t, level, rested.Limits[0].State, "exactly what the rate gives for that time")
	back := limit.Remaining(level)
	assert.GreaterOrEqual(t, back, domain.Tokens(5), "a second's worth")
	assert.LessOrEqual(t, back, domain.Tokens(capacity))

	second := drain()
	assert.GreaterOrEqual(t, second, int(back), "all that came back can be spent")
	assert.LessOrEqual(t, second, int(back)+refilled(limit, look().Now.Sub(rested.Now)))
}

// refilled returns how many tokens come back in elapsed at most.
func refilled(limit domain.Limit, elapsed time.Duration) int {
	refill, per := limit.TokenBucket().Rate()
	return int((int64(elapsed)*int64(refill) + int64(per) - 1) / int64(per))
}
