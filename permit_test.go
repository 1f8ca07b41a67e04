package velocity_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// patience bounds what is awaited on a busy machine. It is shorter than a lease.
const patience = 20 * time.Second

// acquire requires a permit.
func acquire(t *testing.T, l *velocity.Limiter, key string) *velocity.Permit {
	t.Helper()
	p, err := l.Acquire(t.Context(), key, 1)
	require.NoError(t, err)
	require.True(t, p.Allowed)
	return p
}

// held reports whether a permit of the only one is held.
func held(t *testing.T, l *velocity.Limiter, key string) bool {
	t.Helper()
	r, err := l.Peek(t.Context(), key)
	require.NoError(t, err)
	return r.Remaining == 0
}

// freed waits until the permit is free.
func freed(t *testing.T, l *velocity.Limiter, key, of string) {
	t.Helper()
	began := time.Now()
	for held(t, l, key) {
		require.Less(t, time.Since(began), patience, of)
		time.Sleep(time.Millisecond)
	}
}

func oneAtOnce(t *testing.T) *velocity.Limiter {
	t.Helper()
	return open(t, velocity.Config{Limits: []velocity.Limit{velocity.Concurrent(1)}})
}

func TestAcquire_holdsUntilItIsReleased(t *testing.T) {
	l := oneAtOnce(t)
	p := acquire(t, l, "alice")
	assert.EqualValues(t, 1, p.Limit)
	assert.EqualValues(t, 0, p.Remaining)
	second, err := l.Acquire(t.Context(), "alice", 1)
	require.NoError(t, err)
	assert.False(t, second.Allowed)
	assert.Equal(t, time.Second, second.RetryAfter, "an estimate")
	second.Release()
	require.NoError(t, second.ReleaseCost(t.Context(), 5))
	acquire(t, l, "bob").Release()
	time.Sleep(2 * time.Millisecond)
	assert.True(t, held(t, l, "alice"), "a denied one releases nothing")

	p.Release()
	assert.False(t, held(t, l, "alice"), "released")
	third := acquire(t, l, "alice")
	p.Release()
	require.NoError(t, p.ReleaseCost(t.Context(), 5))
	time.Sleep(2 * time.Millisecond)
	assert.True(t, held(t, l, "alice"), "once released, it releases nothing more")
	third.Release()

	peek, err := l.Acquire(t.Context(), "carol", 0)
	require.NoError(t, err)
	assert.True(t, peek.Allowed)
	assert.False(t, held(t, l, "carol"), "cost 0 holds nothing")
	_, err = l.Acquire(t.Context(), "", 1)
	require.ErrorIs(t, err, velocity.ErrInvalid)
	_, err = l.Acquire(t.Context(), "alice", -1)
	require.ErrorIs(t, err, velocity.ErrInvalid)
}

func TestAcquire_endsWithItsContext(t *testing.T) {
	l := oneAtOnce(t)
	ctx, cancel := context.WithCancel(t.Context())
	p, err := l.Acquire(ctx, "alice", 1)
	require.NoError(t, err)
	require.True(t, p.Allowed)
	assert.True(t, held(t, l, "alice"))
	cancel()
	freed(t, l, "alice", "its context has ended")
	assert.False(t, p.Detach(), "too late")
	_, err = l.Acquire(ctx, "alice", 1)
	require.ErrorIs(t, err, context.Canceled)
	assert.False(t, held(t, l, "alice"))

	ctx, cancel = context.WithCancel(t.Context())
	p, err = l.Acquire(ctx, "alice", 1)
	require.NoError(t, err)
	assert.True(t, p.Detach())
	cancel()
	time.Sleep(10 * time.Millisecond)
	assert.True(t, held(t, l, "alice"), "it is detached")
	p.Release()
	assert.False(t, held(t, l, "alice"), "released")
}

func TestAcquire_isTheOnlyWayToHold(t *testing.T) {
	l := oneAtOnce(t)
	_, err := l.Allow(t.Context(), "alice")
	require.ErrorIs(t, err, velocity.ErrNeedsPermit)
	require.ErrorContains(t, err, `policy "default": the policy has a concurrency limit`)
	require.ErrorContains(t, err, "use Acquire")
	_, err = l.Reserve(t.Context(), "alice", 1)
	require.ErrorIs(t, err, velocity.ErrNeedsPermit)
	require.ErrorIs(t, l.Wait(t.Context(), "alice"), velocity.ErrNeedsPermit)
	assert.False(t, held(t, l, "alice"))
	_, err = l.Charge(t.Context(), "alice", 5)
	require.NoError(t, err, "it changes no permit")
}

// A permit lasts as long as the work does, whatever its lease is, and no longer than the limiter.
func TestAcquire_outlivesItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.Concurrent(1).WithLease(time.Second)}})
		require.NoError(t, err)
		p := acquire(t, l, "alice")
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			require.True(t, held(t, l, "alice"))
		}
		p.Release()
		assert.False(t, held(t, l, "alice"))
		acquire(t, l, "bob")
		require.NoError(t, l.Close())
	})
}

func TestReleaseCost_settlesTheDifference(t *testing.T) {
	bucket, own := velocity.PerHour(100).Named("tokens"), velocity.PerHour(50).WithCost(1).Named("requests")
	for name, limits := range map[string][]velocity.Limit{
		"permit":    {bucket, own, velocity.Concurrent(5).Named("parallel")},
		"no permit": {bucket, own},
	} {
		l := open(t, velocity.Config{Limits: limits})
		for i, c := range []struct{ estimate, actual, left int64 }{{10, 25, 75}, {10, 4, 71}, {10, 0, 71}, {5, 5, 66}, {1, 70, -4}} {
			p, err := l.Acquire(t.Context(), "alice", c.estimate)
			require.NoError(t, err)
			require.True(t, p.Allowed, "%s %d", name, i)
			require.ErrorIs(t, p.ReleaseCost(t.Context(), -1), velocity.ErrInvalid, "it is held still")
			require.NoError(t, p.ReleaseCost(t.Context(), c.actual))
			require.NoError(t, p.ReleaseCost(t.Context(), 50), "it has ended")
			p.Release()
			r, err := l.Peek(t.Context(), "alice")
			require.NoError(t, err)
			assert.Equal(t, c.left, r.Remaining, "%s %d", name, i)
		}
		p, err := l.Acquire(t.Context(), "alice", 1)
		require.NoError(t, err)
		assert.False(t, p.Allowed)
		require.NoError(t, p.ReleaseCost(t.Context(), 0), "it has taken nothing")
	}
	down := open(t, velocity.Config{Limits: []velocity.Limit{bucket}, Redis: []string{"127.0.0.1:1"}, OnFailure: func(string, error) {}})
	p, err := down.Acquire(t.Context(), "alice", 1)
	require.NoError(t, err)
	assert.True(t, p.Allowed && p.Fallback)
	require.NoError(t, p.ReleaseCost(t.Context(), 50), "nothing was taken, and nothing is charged")
}

// A client that leaves when its answer is nearly complete pays for it.
func TestReleaseCost_settlesAlsoIfTheContextHasEnded(t *testing.T) {
	l := open(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(100)}})
	ctx, leave := context.WithCancel(t.Context())
	p, err := l.Acquire(ctx, "alice", 10)
	require.NoError(t, err)
	leave()
	require.NoError(t, p.ReleaseCost(ctx, 25))
	r, err := l.Peek(t.Context(), "alice")
	require.NoError(t, err)
	assert.EqualValues(t, 75, r.Remaining)
}

// waits is a policy of ten a second, without a burst, in which a request may wait for half a second.
func waits(t *testing.T, more ...velocity.Limit) *velocity.Limiter {
	t.Helper()
	l, err := velocity.New(velocity.Config{Policies: []velocity.Policy{{
		Name: "default", Limits: append(more, velocity.PerSecond(10).Burst(1).Named("rate")), MaxWait: 500 * time.Millisecond,
	}}})
	require.NoError(t, err)
	return l
}

func TestReserve_givesTurnsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := waits(t)
		defer l.Close()
		for i := range 6 {
			r, err := l.Reserve(t.Context(), "alice", 1)
			require.NoError(t, err)
			require.True(t, r.Allowed)
			assert.Equal(t, time.Duration(i)*100*time.Millisecond, r.Wait)
		}
		r, err := l.Reserve(t.Context(), "alice", 1)
		require.NoError(t, err)
		assert.False(t, r.Allowed, "it would have to wait for longer than MaxWait")
		assert.Zero(t, r.Wait)
		assert.Equal(t, 100*time.Millisecond, r.RetryAfter, "then it may wait")
		time.Sleep(r.RetryAfter)
		soon, cancel := context.WithTimeout(t.Context(), 499*time.Millisecond)
		defer cancel()
		r, err = l.Reserve(soon, "alice", 1)
		require.NoError(t, err)
		assert.False(t, r.Allowed, "its turn would come after the deadline")
		r, err = l.Reserve(t.Context(), "alice", 1)
		require.NoError(t, err)
		assert.Equal(t, 500*time.Millisecond, r.Wait)

		r, err = l.Reserve(t.Context(), "bob", 2)
		require.NoError(t, err)
		assert.Equal(t, velocity.Never, r.RetryAfter)
		r, err = l.Take(t.Context(), "alice", 1)
		require.NoError(t, err)
		assert.False(t, r.Allowed, "Take never waits")
	})
}

// Those who wait are served in the order in which they asked, at the rate, also beyond MaxWait.
func TestWait_ordersThoseWhoBorrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := waits(t)
		defer l.Close()
		began := time.Now()
		var (
			mu     sync.Mutex
			served []int
			all    sync.WaitGroup
		)
		for i := range 6 {
			all.Go(func() {
				if assert.NoError(t, l.Wait(t.Context(), "alice")) {
					assert.Equal(t, time.Duration(i)*100*time.Millisecond, time.Since(began))
					mu.Lock()
					defer mu.Unlock()
					served = append(served, i)
				}
			})
			synctest.Wait() // it has asked
		}
		all.Wait()
		assert.Equal(t, []int{0, 1, 2, 3, 4, 5}, served)
		for i := range 12 { // alone, it borrows nothing that is not there a moment later
			require.NoError(t, l.Wait(t.Context(), "alice"))
			assert.Equal(t, time.Duration(6+i)*100*time.Millisecond, time.Since(began))
		}

		r, err := l.Reserve(t.Context(), "alice", 1)
		require.NoError(t, err)
		assert.Equal(t, 100*time.Millisecond, r.Wait)
		leaving, leave := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer leave()
		time.AfterFunc(50*time.Millisecond, leave)
		before := time.Now()
		require.ErrorIs(t, l.Wait(leaving, "alice"), context.Canceled)
		assert.Equal(t, 50*time.Millisecond, time.Since(before))
		r, err = l.Reserve(t.Context(), "alice", 1)
		require.NoError(t, err)
		assert.Equal(t, 250*time.Millisecond, r.Wait, "a cancelled request has spent the token")
	})
}

func TestAcquire_waitsForItsTurnAndHoldsMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := waits(t, velocity.Concurrent(3).Named("parallel"))
		defer l.Close()
		began := time.Now()
		for i := range 2 {
			p := acquire(t, l, "alice")
			assert.Equal(t, time.Duration(i)*100*time.Millisecond, time.Since(began))
			assert.Zero(t, p.Wait, "it is over")
		}
		leaving, leave := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, leave)
		go func() {
			_, err := l.Acquire(leaving, "alice", 1)
			assert.ErrorIs(t, err, context.Canceled)
		}()
		synctest.Wait()
		p, err := l.Acquire(t.Context(), "alice", 1)
		require.NoError(t, err)
		assert.False(t, p.Allowed, "the one that waits holds the third permit")
		time.Sleep(60 * time.Millisecond)
		p, err = l.Acquire(t.Context(), "alice", 1)
		require.NoError(t, err)
		assert.True(t, p.Allowed, "the one that waited has left, and its permit ended")
		assert.Equal(t, 300*time.Millisecond, time.Since(began), "its token stays spent")
	})
}

func TestAcquire_withoutMaxWaitNothingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.PerSecond(10).Burst(1)}})
		require.NoError(t, err)
		defer l.Close()
		began := time.Now()
		acquire(t, l, "alice").Release()
		p, err := l.Acquire(t.Context(), "alice", 1)
		require.NoError(t, err)
		assert.False(t, p.Allowed)
		r, err := l.Reserve(t.Context(), "alice", 1)
		require.NoError(t, err)
		assert.False(t, r.Allowed)
		assert.Zero(t, time.Since(began))
	})
}

// Processes that share Redis count together, and one that ends gives back what it holds.
func TestAcquire_isSharedInRedis(t *testing.T) {
	server := redistest.Start(t)
	cfg := velocity.Config{
		Limits: []velocity.Limit{velocity.Concurrent(1).WithLease(time.Hour)}, Redis: []string{server.Addr}, Failure: velocity.Closed,
		TakeTimeout: 20 * time.Second, OnFailure: func(_ string, cause error) { assert.NoError(t, cause) },
	}
	a, b := open(t, cfg), open(t, cfg)
	p := acquire(t, a, "alice")
	assert.True(t, held(t, b, "alice"))
	p.Release()
	acquire(t, b, "alice").Release()
	acquire(t, a, "alice")
	other := acquire(t, of(t, a, velocity.DefaultPolicy), "bob")
	require.NoError(t, a.Close())
	assert.False(t, held(t, b, "alice"))
	assert.False(t, held(t, b, "bob"))
	acquire(t, b, "bob")
	other.Release() // does nothing, and harms nothing
	assert.True(t, held(t, b, "bob"))
}
