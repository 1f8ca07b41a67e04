package velocity_test

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

func open(t *testing.T, cfg velocity.Config) *velocity.Limiter {
	t.Helper()
	l, err := velocity.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l
}

func TestAllow_aCrowdGetsExactlyTheCapacity(t *testing.T) {
	server := redistest.Start(t)
	inRedis := velocity.Config{
		Limits: []velocity.Limit{velocity.PerHour(10)}, Redis: []string{server.Addr}, TakeTimeout: 20 * time.Second,
		Failure: velocity.Closed, OnFailure: func(_ string, cause error) { assert.NoError(t, cause) },
	}
	inMemory := open(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(10)}})
	for name, limiters := range map[string][]*velocity.Limiter{
		"memory":               {inMemory},
		"Redis, shared by two": {open(t, inRedis), open(t, inRedis)},
	} {
		var (
			gun, wg sync.WaitGroup
			allowed atomic.Int64
		)
		gun.Add(1)
		for i := range 100 {
			wg.Go(func() {
				gun.Wait()
				ok, err := limiters[i%len(limiters)].Allow(t.Context(), "alice")
				if assert.NoError(t, err) && ok {
					allowed.Add(1)
				}
			})
		}
		gun.Done()
		wg.Wait()
		assert.EqualValues(t, 10, allowed.Load(), name)
	}
}

func TestTake_peekAndRefund(t *testing.T) {
	l := open(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(10)}})
	ctx := t.Context()
	r, err := l.Take(ctx, "alice", 7)
	require.NoError(t, err)
	assert.True(t, r.Allowed)
	assert.EqualValues(t, 10, r.Limit)
	assert.EqualValues(t, 3, r.Remaining)
	r, err = l.Take(ctx, "alice", 4)
	require.NoError(t, err)
	assert.False(t, r.Allowed)
	assert.InDelta(t, 6*time.Minute, r.RetryAfter, float64(time.Minute))
	r, err = l.Take(ctx, "alice", 11)
	require.NoError(t, err)
	assert.Equal(t, velocity.Never, r.RetryAfter)
	r, err = l.Refund(ctx, "alice", 2)
	require.NoError(t, err)
	assert.EqualValues(t, 5, r.Remaining)
	r, err = l.Peek(ctx, "alice")
	require.NoError(t, err)
	assert.EqualValues(t, 5, r.Remaining)
	ok, err := l.AllowN(ctx, "alice", 5)
	require.NoError(t, err)
	assert.True(t, ok)
	ok, err = l.Allow(ctx, "bob")
	require.NoError(t, err)
	assert.True(t, ok, "another key")

	_, err = l.Allow(ctx, "")
	require.ErrorIs(t, err, velocity.ErrInvalid)
	_, err = l.AllowN(ctx, "alice", -1)
	require.ErrorIs(t, err, velocity.ErrInvalid)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, err = l.Allow(gone, "alice")
	require.ErrorIs(t, err, context.Canceled)
}

func TestPolicy_decidesByItsOwnLimits(t *testing.T) {
	l := open(t, velocity.Config{
		Limits: []velocity.Limit{velocity.PerHour(1)},
		Policies: []velocity.Policy{{
			Name: "uploads", Limits: []velocity.Limit{velocity.PerHour(100).Named("hourly"), velocity.PerMinute(2).Named("burst")},
		}},
	})
	for i, want := range []bool{true, true, false} {
		r, err := l.Policy("uploads").Take(t.Context(), "alice", 1)
		require.NoError(t, err)
		assert.Equal(t, want, r.Allowed, "upload %d", i)
		assert.EqualValues(t, 2, r.Limit)
	}
	ok, err := l.Allow(t.Context(), "alice")
	require.NoError(t, err)
	assert.True(t, ok)
	_, err = l.Policy("none").Allow(t.Context(), "alice")
	require.ErrorContains(t, err, `unknown policy: "none"`)
}

func TestWait_sleepsUntilThereIsAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.PerSecond(2)}})
		require.NoError(t, err)
		defer l.Close()
		began := time.Now()
		for i := range 6 { // two are there, and then one each half second
			require.NoError(t, l.Wait(t.Context(), "alice"))
			assert.Equal(t, time.Duration(max(i-1, 0))*500*time.Millisecond, time.Since(began), "token %d", i+1)
		}
		require.ErrorIs(t, l.WaitN(t.Context(), "alice", 3), velocity.ErrNever)

		soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		before := time.Now()
		require.ErrorIs(t, l.Wait(soon, "alice"), context.DeadlineExceeded)
		assert.Equal(t, before, time.Now(), "at once, since the wait is longer")

		leaving, leave := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, leave)
		require.ErrorIs(t, l.Wait(leaving, "alice"), context.Canceled)
	})
}

func TestFailure_ofRedisIsThePolicys(t *testing.T) {
	var told atomic.Int64
	l := open(t, velocity.Config{
		Redis: []string{"127.0.0.1:1"}, // nobody listens
		Policies: []velocity.Policy{
			{Name: "open", Limits: []velocity.Limit{velocity.PerHour(1)}},
			{Name: "closed", Limits: []velocity.Limit{velocity.PerHour(1)}, Failure: velocity.Closed},
			{Name: "local", Limits: []velocity.Limit{velocity.PerHour(1)}, Failure: velocity.Local},
		},
		OnFailure: func(_ string, cause error) {
			assert.ErrorIs(t, cause, velocity.ErrUnavailable)
			told.Add(1)
		},
	})
	for name, want := range map[string][2]bool{"open": {true, true}, "closed": {false, false}, "local": {true, false}} {
		for _, allowed := range want {
			r, err := l.Policy(name).Take(t.Context(), "alice", 1)
			require.NoError(t, err)
			assert.Equal(t, allowed, r.Allowed, name)
			assert.True(t, r.Fallback)
			assert.Equal(t, name == "closed", r.Unavailable)
		}
	}
	assert.EqualValues(t, 6, told.Load())
	require.ErrorIs(t, l.Policy("closed").Wait(t.Context(), "alice"), velocity.ErrUnavailable)
	r, err := l.Policy("closed").Take(t.Context(), "alice", 1)
	require.NoError(t, err)
	status, body := r.Problem()
	assert.Equal(t, http.StatusServiceUnavailable, status)
	assert.Contains(t, string(body), "temporary-reduced-capacity")
}

func TestAllow_whenTheDeadlineComesTheFailureModeDecides(t *testing.T) {
	for failure, want := range map[velocity.Failure]bool{velocity.Open: true, velocity.Local: true, velocity.Closed: false} {
		l, err := velocity.New(velocity.Config{
			Limits: []velocity.Limit{velocity.PerSecond(1)}, Failure: failure,
			Redis: []string{redistest.Blackhole(t)}, TakeTimeout: 20 * time.Second,
		})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		allowed, err := l.Allow(ctx, "a")
		cancel()
		require.NoError(t, err, failure)
		assert.Equal(t, want, allowed, failure)
		_, err = l.Allow(ctx, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded, "it was over before")
		require.NoError(t, l.Close())
	}
}

func TestNew_reportsEveryViolation(t *testing.T) {
	for want, cfg := range map[string]velocity.Config{
		"there are no limits":                 {},
		`policy "default": capacity: 0`:       {Limits: []velocity.Limit{velocity.PerSecond(5).Burst(0)}},
		`policy "A": name: "A": must match`:   {Policies: []velocity.Policy{{Name: "A", Limits: []velocity.Limit{velocity.PerSecond(1)}}}},
		`on_store_failure: "panic": must be`:  {Limits: []velocity.Limit{velocity.PerSecond(1)}, Failure: "panic"},
		"there are two policies of this name": {Limits: []velocity.Limit{velocity.PerSecond(1)}, Policies: []velocity.Policy{{Name: "default", Limits: []velocity.Limit{velocity.PerSecond(1)}}}},
		"must be host:port":                   {Limits: []velocity.Limit{velocity.PerSecond(1)}, Redis: []string{"redis"}},
		"-1":                                  {Limits: []velocity.Limit{velocity.PerSecond(1)}, MaxKeys: -1},
	} {
		_, err := velocity.New(cfg)
		require.ErrorContains(t, err, want)
	}
}

func TestAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:1234": "192.0.2.1", "192.0.2.1": "192.0.2.1", "[2001:db8::1]:443": "2001:db8::/64",
		"[::ffff:192.0.2.1]:5": "192.0.2.1", "@": "@",
	} {
		assert.Equal(t, want, velocity.Address(remote), remote)
	}
}
