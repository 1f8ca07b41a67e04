package velocity_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// tokens are 1000 tokens and 100 requests an hour, and five requests at once, which is left out if there shall be no permit.
func tokens(permit bool) []velocity.Limit {
	limits := []velocity.Limit{velocity.Quota(1000, velocity.Year).Named("tokens"), velocity.Quota(100_000, velocity.Year).WithCost(1).Named("requests")}
	if permit {
		limits = append(limits, velocity.Concurrent(5).Named("parallel"))
	}
	return limits
}

// left returns how many tokens alice has left.
func left(t *testing.T, l *velocity.Limiter) int64 {
	t.Helper()
	r, err := l.Peek(t.Context(), "alice")
	require.NoError(t, err)
	return r.Remaining
}

func TestSettle_isSettledOnceByTheRelease(t *testing.T) {
	server := redistest.Start(t)
	for _, permit := range []bool{false, true} {
		for name, addrs := range map[string][]string{"memory": nil, "redis": {server.Addr}} {
			cfg := velocity.Config{Limits: tokens(permit), Redis: addrs, Failure: velocity.Closed}
			if addrs != nil {
				cfg.TakeTimeout = patience
			}
			l := open(t, cfg)
			require.NoError(t, l.Reset(t.Context(), "alice"))
			for _, c := range []struct {
				story    string
				reported []int64
				end      func(*velocity.Permit)
				cost     int64
			}{
				{"less than the estimate", []int64{30}, (*velocity.Permit).Release, 30},
				{"more than the estimate", []int64{130}, (*velocity.Permit).Release, 130},
				{"the last counts", []int64{500, 7, 20}, (*velocity.Permit).Release, 20},
				{"nothing", []int64{0}, (*velocity.Permit).Release, 0},
				{"not reported", nil, (*velocity.Permit).Release, 50},
				{"broken off below the estimate", []int64{30}, (*velocity.Permit).Abort, 50},
				{"broken off above the estimate", []int64{60}, (*velocity.Permit).Abort, 60},
				{"broken off before anything", nil, (*velocity.Permit).Abort, 50},
			} {
				before := left(t, l)
				p, err := l.Acquire(t.Context(), "alice", 50)
				require.NoError(t, err)
				require.True(t, p.Allowed, c.story)
				ctx := velocity.WithPermit(t.Context(), p)
				for _, actual := range c.reported {
					require.NoError(t, velocity.Settle(ctx, actual))
				}
				c.end(p)
				assert.Equal(t, c.cost, before-left(t, l), "%s, %s, permit: %t", c.story, name, permit)
				p.Release()
				p.Abort()
				require.ErrorIs(t, velocity.Settle(ctx, 900), velocity.ErrPermitEnded, "too late")
				p.Release()
				assert.Equal(t, c.cost, before-left(t, l), "%s, %s, permit: %t: once", c.story, name, permit)
			}
		}
	}
}

// An outer middleware counts a team, an inner one a key.
func TestSettle_everyPermitOfTheContext(t *testing.T) {
	key, team := open(t, velocity.Config{Limits: tokens(true)}), open(t, velocity.Config{Limits: tokens(false)})
	other := open(t, velocity.Config{Limits: tokens(false)})
	outer, err := team.Acquire(t.Context(), "alice", 10)
	require.NoError(t, err)
	_, err = other.Acquire(t.Context(), "alice", 10)
	require.NoError(t, err)
	inner, err := key.Acquire(t.Context(), "alice", 20)
	require.NoError(t, err)
	require.NoError(t, velocity.Settle(velocity.WithPermit(velocity.WithPermit(t.Context(), outer), inner), 300))
	inner.Release()
	outer.Release()
	assert.Equal(t, []int64{700, 700, 990}, []int64{left(t, key), left(t, team), left(t, other)})
}

func TestSettle_refuses(t *testing.T) {
	require.ErrorIs(t, velocity.Settle(t.Context(), 5), velocity.ErrInvalid)
	require.ErrorContains(t, velocity.Settle(t.Context(), 5), "the context carries no permit")
	l := open(t, velocity.Config{Limits: tokens(true)})
	p := acquire(t, l, "alice")
	for _, wrong := range []int64{-1, 1 << 31} {
		err := velocity.Settle(velocity.WithPermit(t.Context(), p), wrong)
		require.ErrorIs(t, err, velocity.ErrInvalid)
		require.ErrorContains(t, err, "actual")
	}
	p.Release()
	assert.EqualValues(t, 999, left(t, l))
}

func TestSettle_ofADenialOrAFailedStoreChargesNothing(t *testing.T) {
	l := open(t, velocity.Config{Limits: tokens(false)})
	p, err := l.Acquire(t.Context(), "alice", 1001)
	require.NoError(t, err)
	require.False(t, p.Allowed)
	require.NoError(t, velocity.Settle(velocity.WithPermit(t.Context(), p), 5))
	p.Release()
	assert.EqualValues(t, 1000, left(t, l))

	failures := 0
	down := open(t, velocity.Config{Limits: tokens(false), Redis: []string{"127.0.0.1:1"}, OnFailure: func(string, error) { failures++ }})
	p, err = down.Acquire(t.Context(), "alice", 1)
	require.NoError(t, err)
	require.True(t, p.Allowed && p.Fallback)
	require.NoError(t, velocity.Settle(velocity.WithPermit(t.Context(), p), 5))
	p.Release()
	assert.Equal(t, 1, failures, "the take alone")
}

// Release returns no error, so OnFailure gets what it cannot settle.
func TestSettle_failuresAreReported(t *testing.T) {
	var failed []error
	report := func(_ string, cause error) { failed = append(failed, cause) }
	l := open(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(1)}, OnFailure: report})
	p := acquire(t, l, "alice")
	require.NoError(t, velocity.Settle(velocity.WithPermit(t.Context(), p), 1<<31-1))
	p.Release()
	require.Len(t, failed, 1)
	require.ErrorIs(t, failed[0], velocity.ErrDebt)
	assert.EqualValues(t, -100*365*24, left(t, l), "as much is charged as the bucket can owe: what it refills in 100 years")

	server := redistest.Start(t)
	l = open(t, velocity.Config{Limits: tokens(false), Redis: []string{server.Addr}, OnFailure: report, TakeTimeout: patience})
	p = acquire(t, l, "alice")
	require.False(t, p.Fallback)
	server.Stop()
	require.NoError(t, velocity.Settle(velocity.WithPermit(t.Context(), p), 5))
	p.Release()
	require.Len(t, failed, 2)
	require.ErrorIs(t, failed[1], velocity.ErrUnavailable)
}

// A context that ends breaks the work off: leaving early is no discount.
func TestSettle_whenTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := velocity.New(velocity.Config{Limits: tokens(true)})
		require.NoError(t, err)
		defer l.Close()
		for reported, cost := range map[int64]int64{30: 50, 130: 130} {
			before := left(t, l)
			ctx, cancel := context.WithCancel(t.Context())
			p, err := l.Acquire(ctx, "alice", 50)
			require.NoError(t, err)
			require.NoError(t, velocity.Settle(velocity.WithPermit(ctx, p), reported))
			cancel()
			synctest.Wait()
			assert.Equal(t, cost, before-left(t, l))
			p.Release()
			time.Sleep(time.Second)
			assert.Equal(t, cost, before-left(t, l))
		}
	})
}
