package memstore_test

import (
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// newStore makes a store whose clock the test controls.
func newStore(tb testing.TB, maxBuckets int) (*memstore.Store, *manualClock) {
	tb.Helper()
	store, err := memstore.New(memstore.Config{MaxBuckets: maxBuckets})
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, store.Close()) })
	clock := &manualClock{}
	clock.us.Store(int64(domain.InstantOf(time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC))))
	store.SetClock(clock.Now)
	return store, clock
}

// manualClock stands still until it is moved.
type manualClock struct{ us atomic.Int64 }

func (c *manualClock) Now() domain.Instant { return domain.Instant(c.us.Load()) }

func (c *manualClock) Advance(d time.Duration) { c.us.Add(d.Microseconds()) }

// mustLimit makes a limit from "5/s" and a capacity.
func mustLimit(tb testing.TB, name, rate string, capacity domain.Tokens) domain.Limit {
	tb.Helper()
	refill, per, err := domain.ParseRate(rate)
	require.NoError(tb, err)
	l, err := domain.NewBucket(name, capacity, refill, per)
	require.NoError(tb, err)
	return l
}

func mustQuota(tb testing.TB, name string, quota domain.Tokens, period string) domain.Limit {
	tb.Helper()
	periods, err := calendar.Parse(period, "", "")
	require.NoError(tb, err)
	l, err := domain.NewQuota(name, quota, periods)
	require.NoError(tb, err)
	return l
}

func mustConcurrency(tb testing.TB, name string, n domain.Tokens, lease time.Duration) domain.Limit {
	tb.Helper()
	l, err := domain.NewConcurrency(name, n, lease)
	require.NoError(tb, err)
	return l
}

// take takes cost tokens, which must not fail.
func take(tb testing.TB, s *memstore.Store, key clientkey.BucketKey, cost domain.Tokens, limits ...domain.Limit) domain.Verdict {
	tb.Helper()
	r := ports.Take(tb.Context(), s, ports.TakeRequest{Op: domain.OpTake, Key: key, Limits: limits, Cost: cost})
	require.NoError(tb, r.Err)
	return r.Verdict
}

func numbered(prefix string, i int) clientkey.BucketKey {
	return clientkey.BucketKey(prefix + strconv.Itoa(i))
}
