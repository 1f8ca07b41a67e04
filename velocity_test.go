package velocity_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
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

// of returns the limiter of a policy.
func of(t *testing.T, l *velocity.Limiter, policy string) *velocity.Limiter {
	t.Helper()
	other, err := l.Policy(policy)
	require.NoError(t, err)
	return other
}

func TestAllow_concurrentCallersGetExactlyTheCapacity(t *testing.T) {
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
	assert.Greater(t, r.RetryAfter, 100*365*24*time.Hour, "it is safe to sleep for it")
	status, body := r.Problem()
	assert.Equal(t, http.StatusTooManyRequests, status)
	assert.Contains(t, string(body), `"retry_after_ms":-1`, "as the service writes it")
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
		r, err := of(t, l, "uploads").Take(t.Context(), "alice", 1)
		require.NoError(t, err)
		assert.Equal(t, want, r.Allowed, "upload %d", i)
		assert.EqualValues(t, 2, r.Limit)
	}
	ok, err := l.Allow(t.Context(), "alice")
	require.NoError(t, err)
	assert.True(t, ok)
	_, err = l.Policy("none")
	require.EqualError(t, err, `velocity: unknown policy: "none"`)
	require.ErrorIs(t, err, velocity.ErrUnknownPolicy)
}

func TestPolicy_aLimitWithoutANameHasItsPolicys(t *testing.T) {
	l, err := velocity.New(velocity.Config{Policies: []velocity.Policy{
		{Name: "login", Limits: []velocity.Limit{velocity.PerHour(1), velocity.PerHour(9).Named("default")}},
	}})
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	login, err := l.Policy("login")
	require.NoError(t, err)
	_, err = login.Take(t.Context(), "alice", 1)
	require.NoError(t, err)
	r, err := login.Take(t.Context(), "alice", 1)
	require.NoError(t, err)
	_, body := r.Problem()
	assert.Contains(t, string(body), `"violated-policies":["login"]`)
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

func TestWait_sleepsUntilTheQuotasPeriodEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it begins at midnight in UTC
		l, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.Quota(2, velocity.Day).In("Asia/Tokyo")}})
		require.NoError(t, err)
		defer l.Close()
		began := time.Now()
		for i, want := range []time.Duration{0, 0, 15 * time.Hour, 15 * time.Hour, 39 * time.Hour} {
			require.NoError(t, l.Wait(t.Context(), "alice"))
			assert.Equal(t, want, time.Since(began), "token %d", i+1)
		}
		require.ErrorIs(t, l.WaitN(t.Context(), "alice", 3), velocity.ErrNever)
	})
}

func TestFailure_modeOfThePolicyDecides(t *testing.T) {
	var reported atomic.Int64
	l := open(t, velocity.Config{
		Redis: []string{"127.0.0.1:1"}, // no server listens there
		Policies: []velocity.Policy{
			{Name: "open", Limits: []velocity.Limit{velocity.PerHour(1)}},
			{Name: "closed", Limits: []velocity.Limit{velocity.PerHour(1)}, Failure: velocity.Closed},
			{Name: "local", Limits: []velocity.Limit{velocity.PerHour(1)}, Failure: velocity.Local},
		},
		OnFailure: func(_ string, cause error) {
			assert.ErrorIs(t, cause, velocity.ErrUnavailable)
			reported.Add(1)
		},
	})
	for name, want := range map[string][2]bool{"open": {true, true}, "closed": {false, false}, "local": {true, false}} {
		for _, allowed := range want {
			r, err := of(t, l, name).Take(t.Context(), "alice", 1)
			require.NoError(t, err)
			assert.Equal(t, allowed, r.Allowed, name)
			assert.True(t, r.Fallback)
			assert.Equal(t, name == "closed", r.Unavailable)
			assert.Equal(t, allowed, r.RetryAfter == 0, "a denial has a wait, so that a loop that sleeps for it does not spin")
		}
	}
	assert.EqualValues(t, 6, reported.Load())
	require.ErrorIs(t, of(t, l, "closed").Wait(t.Context(), "alice"), velocity.ErrUnavailable)
	r, err := of(t, l, "closed").Take(t.Context(), "alice", 1)
	require.NoError(t, err)
	status, body := r.Problem()
	assert.Equal(t, http.StatusServiceUnavailable, status)
	assert.Contains(t, string(body), "temporary-reduced-capacity")
}

func TestAllow_failureModeDecidesAtTheDeadline(t *testing.T) {
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

// A host that does not exist is found by Ping, and logged when it is asked.
func TestPing_findsAServerThatCannotBeReached(t *testing.T) {
	var log bytes.Buffer
	l := open(t, velocity.Config{
		Limits: []velocity.Limit{velocity.PerMinute(1)}, Redis: []string{"typo-host.invalid:6379"},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	err := l.Ping(t.Context())
	require.ErrorIs(t, err, velocity.ErrUnavailable)
	require.ErrorContains(t, err, "velocity: ")
	for range 50 {
		ok, err := l.Allow(t.Context(), "alice")
		require.NoError(t, err)
		assert.True(t, ok)
	}
	assert.Equal(t, 1, strings.Count(log.String(), "\n"), "%s", &log)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	require.ErrorIs(t, l.Ping(ended), velocity.ErrUnavailable)
	assert.Less(t, time.Since(began), 200*time.Millisecond)
	require.NoError(t, open(t, velocity.Config{Limits: []velocity.Limit{velocity.PerMinute(1)}}).Ping(t.Context()), "in memory")
}

func TestPing_checksEveryServer(t *testing.T) {
	servers, addrs := redistest.StartN(t, 2)
	l := open(t, velocity.Config{Limits: []velocity.Limit{velocity.PerMinute(1)}, Redis: addrs, TakeTimeout: 5 * time.Second})
	require.NoError(t, l.Ping(t.Context()))
	servers[1].Kill()
	err := l.Ping(t.Context())
	require.ErrorIs(t, err, velocity.ErrUnavailable)
	assert.ErrorContains(t, err, "shard-1")
	assert.NotContains(t, err.Error(), "shard-0")
}

func TestClose_ofAnotherPolicysLimiterClosesNothing(t *testing.T) {
	server := redistest.Start(t)
	l, err := velocity.New(velocity.Config{
		Limits: []velocity.Limit{velocity.PerHour(1)}, Redis: []string{server.Addr}, Failure: velocity.Closed, TakeTimeout: 20 * time.Second,
		OnFailure: func(string, error) {},
	})
	require.NoError(t, err)
	require.NoError(t, of(t, l, velocity.DefaultPolicy).Close())
	ok, err := l.Allow(t.Context(), "alice")
	require.NoError(t, err)
	assert.True(t, ok)
	require.NoError(t, l.Close())
	require.NoError(t, l.Close(), "once more")
	r, err := l.Take(t.Context(), "bob", 1)
	require.NoError(t, err)
	assert.True(t, r.Unavailable)
}

func TestChargeAndReset(t *testing.T) {
	server := redistest.Start(t)
	policies := []velocity.Policy{{Name: "other", Limits: []velocity.Limit{velocity.PerHour(10)}}}
	limits := []velocity.Limit{velocity.PerHour(10)}
	for name, l := range map[string]*velocity.Limiter{
		"memory": open(t, velocity.Config{Limits: limits, Policies: policies}),
		"Redis":  open(t, velocity.Config{Limits: limits, Policies: policies, Redis: []string{server.Addr}, TakeTimeout: 20 * time.Second}),
	} {
		for _, key := range []string{"alice", "a&b%26=", "with space\x00", strings.Repeat("long", 2000)} {
			ctx := t.Context()
			r, err := l.Charge(ctx, key, 25)
			require.NoError(t, err, name)
			assert.EqualValues(t, -15, r.Remaining)
			ok, err := l.Allow(ctx, key)
			require.NoError(t, err)
			assert.False(t, ok)
			_, err = of(t, l, "other").Charge(ctx, key, 3)
			require.NoError(t, err)
			require.NoError(t, l.Reset(ctx, key))
			r, err = l.Take(ctx, key, 1)
			require.NoError(t, err)
			assert.EqualValues(t, 9, r.Remaining, "%s: the denial that was remembered is forgotten", name)
			r, err = of(t, l, "other").Peek(ctx, key)
			require.NoError(t, err)
			assert.EqualValues(t, 7, r.Remaining, "the policy's own buckets")
		}
		_, err := l.Charge(t.Context(), "alice", 0)
		require.ErrorIs(t, err, velocity.ErrInvalid)
		require.ErrorIs(t, l.Reset(t.Context(), ""), velocity.ErrInvalid)
		for err = nil; err == nil; { // a charge is at most 2^31-1
			_, err = l.Charge(t.Context(), "debtor", 1<<31-1)
		}
		require.ErrorIs(t, err, velocity.ErrDebt)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, l.Reset(gone, "alice"), context.Canceled)
	}
	down := open(t, velocity.Config{Limits: limits, Redis: []string{"127.0.0.1:1"}, OnFailure: func(string, error) {}})
	_, err := down.Charge(t.Context(), "alice", 1)
	require.ErrorIs(t, err, velocity.ErrUnavailable)
	require.ErrorIs(t, down.Reset(t.Context(), "alice"), velocity.ErrUnavailable)
}

func TestQuota_isSharedInRedis(t *testing.T) {
	server := redistest.Start(t)
	cfg := velocity.Config{
		Limits: []velocity.Limit{velocity.Quota(10, velocity.Year).Named("yearly"), velocity.PerHour(3).WithCost(1).Named("requests")},
		Redis:  []string{server.Addr}, Failure: velocity.Closed, TakeTimeout: 20 * time.Second,
		OnFailure: func(_ string, cause error) { assert.NoError(t, cause) },
	}
	a, b := open(t, cfg), open(t, cfg)
	r, err := a.Take(t.Context(), "alice", 9)
	require.NoError(t, err)
	assert.EqualValues(t, 1, r.Remaining)
	r, err = b.Take(t.Context(), "alice", 2)
	require.NoError(t, err)
	assert.False(t, r.Allowed)
	assert.Equal(t, r.ResetAfter, r.RetryAfter)
	assert.WithinDuration(t, time.Now(), r.TakenAt, time.Minute)
	r, err = b.RefundTakenAt(t.Context(), "alice", 5, time.Now().AddDate(-2, 0, 0))
	require.NoError(t, err)
	assert.EqualValues(t, 1, r.Remaining, "of another year")
	r, err = b.RefundTakenAt(t.Context(), "alice", 9, r.TakenAt)
	require.NoError(t, err)
	assert.EqualValues(t, 2, r.Remaining, "the request stays counted")
	assert.EqualValues(t, 3, r.Limit)
}

func TestNew_withoutADefaultPolicy(t *testing.T) {
	l := open(t, velocity.Config{Policies: []velocity.Policy{{Name: "a", Limits: []velocity.Limit{velocity.PerHour(1)}}}})
	_, err := l.Allow(t.Context(), "alice")
	require.ErrorIs(t, err, velocity.ErrUnknownPolicy)
	ok, err := of(t, l, "a").Allow(t.Context(), "alice")
	require.NoError(t, err)
	assert.True(t, ok)
}

func TestAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:1234": "192.0.2.1", "192.0.2.1": "192.0.2.1", "[2001:db8::1]:443": "2001:db8::/64",
		"[::ffff:192.0.2.1]:5": "192.0.2.1", "@": "@",
	} {
		assert.Equal(t, want, velocity.Address(remote), remote)
	}
}
