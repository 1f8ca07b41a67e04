package app_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// patient has 1 token, one comes every 100 ms, and requests may wait for 300 ms.
func patient(t require.TestingT) policy.Policy {
	return policy.Policy{Key: clientkey.Key{byHeader}, Limits: []domain.Limit{mustLimit(t, "burst", "10/s", 1)}, MaxWait: 300 * time.Millisecond}
}

// patientWithPermits also grants 5 permits, for a second each.
func patientWithPermits(t *testing.T) *fixture {
	t.Helper()
	p := patient(t)
	p.Limits = append(p.Limits, mustConcurrent(t, "parallel", 5, time.Second))
	s := fixtureOf(t, p)
	s.ticks()
	return s
}

func waiting(most time.Duration, hold bool) policy.Request {
	req := of("a", "t", 1)
	req.MaxWait, req.Hold = most, hold
	return req
}

func TestWait_theLesserOfPolicyAndCallerCounts(t *testing.T) {
	for _, c := range []struct {
		caller time.Duration
		passes int
	}{{0, 1}, {99 * time.Millisecond, 1}, {200 * time.Millisecond, 3}, {time.Hour, 4}} {
		s := fixtureOf(t, patient(t))
		for i := range c.passes {
			d := s.must(t, waiting(c.caller, false))
			require.True(t, d.Allowed(), "%v, take %d", c.caller, i)
			assert.Equal(t, time.Duration(i)*100*time.Millisecond, d.Wait)
		}
		d := s.must(t, waiting(c.caller, false))
		assert.Equal(t, decision.OutcomeDenied, d.Outcome)
		assert.Zero(t, d.Wait)
		assert.Equal(t, 100*time.Millisecond*time.Duration(c.passes)-min(c.caller, 300*time.Millisecond), d.Limits[0].RetryAfter)
	}
	p := patient(t)
	p.MaxWait = 0
	s := fixtureOf(t, p)
	require.True(t, s.must(t, waiting(time.Hour, false)).Allowed())
	require.False(t, s.must(t, waiting(time.Hour, false)).Allowed())
}

func TestWait_neverInShadow(t *testing.T) {
	p := patient(t)
	p.Mode = policy.ModeShadow
	s := fixtureOf(t, p)
	s.must(t, waiting(time.Hour, true))
	d := s.must(t, waiting(time.Hour, true))
	assert.Equal(t, decision.OutcomeDenied, d.Outcome)
	assert.Zero(t, d.Wait)
}

// What a request has borrowed is given back if another group denies, and the request does not wait.
func TestWait_notIfAnotherGroupDenies(t *testing.T) {
	p := patient(t)
	p.Limits = append(p.Limits, mustLimit(t, "tenant", "1/h", 1))
	p.LimitKeys = map[string]clientkey.Key{"tenant": {byTenant}}
	s := fixtureOf(t, p)
	require.True(t, s.must(t, waiting(time.Hour, true)).Allowed())
	d := s.must(t, waiting(time.Hour, true))
	require.False(t, d.Allowed())
	assert.Zero(t, d.Wait)
	assert.Equal(t, int64(0), s.store.levels()["default:h:x-client-id=a burst"])
}

func TestWait_heldRequestsPassAtTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fixtureOf(t, patient(t))
		s.ticks()
		began := time.Now()
		var all sync.WaitGroup
		var mu sync.Mutex
		passed := map[time.Duration]int{}
		for range 6 {
			all.Go(func() {
				d := s.must(t, waiting(time.Hour, true))
				mu.Lock()
				defer mu.Unlock()
				if d.Allowed() {
					passed[time.Since(began)]++
				}
			})
		}
		synctest.Wait()
		assert.Equal(t, 3, s.observer.count("waiting"))
		all.Wait()
		assert.Equal(t, map[time.Duration]int{0: 1, 1e8: 1, 2e8: 1, 3e8: 1}, passed)
		assert.Equal(t, 3, s.observer.count("served"))
		assert.Zero(t, s.observer.count("waiting"))
		assert.Zero(t, s.observer.count("full"))
	})
}

func TestWait_manyRequestsOfOneCallSleepOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, decide := range map[string]func(*fixture, []policy.Request, []ports.Answer){
			"many":   func(s *fixture, q []policy.Request, a []ports.Answer) { s.DecideMany(t.Context(), q, a) },
			"atomic": func(s *fixture, q []policy.Request, a []ports.Answer) { s.DecideAtomic(t.Context(), q, a) },
		} {
			s := fixtureOf(t, patient(t))
			s.ticks()
			began := time.Now()
			answers := make([]ports.Answer, 3)
			decide(s, []policy.Request{waiting(time.Hour, true), waiting(time.Hour, true), waiting(time.Hour, true)}, answers)
			assert.Equal(t, 200*time.Millisecond, time.Since(began), name)
			assert.Equal(t, 2, s.observer.count("served"))
			for i := range answers {
				require.True(t, answers[i].Decision.Allowed())
			}
		}
	})
}

// Beyond the bound a request is decided at once. Places are free again when requests have passed, failed or left.
func TestWait_theNumberOfWaitersIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := patient(t)
		p.OnStoreFailure = policy.FailClosed
		s := fixtureOf(t, p)
		s.ticks()
		s.LimitWaiting(2)
		for round := range 3 {
			var all sync.WaitGroup
			require.True(t, s.must(t, waiting(time.Hour, true)).Allowed())
			for range 2 {
				all.Go(func() { assert.True(t, s.must(t, waiting(time.Hour, true)).Allowed()) })
			}
			synctest.Wait()
			d := s.must(t, waiting(time.Hour, true))
			assert.False(t, d.Allowed())
			assert.Equal(t, 300*time.Millisecond, d.Limits[0].RetryAfter, "as if no request could wait")
			assert.Equal(t, round+1, s.observer.count("full"))
			other := waiting(time.Hour, true)
			other.Key = "idle"
			assert.True(t, s.must(t, other).Allowed(), "it need not wait")
			all.Wait()
			time.Sleep(time.Second)

			s.store.set(unavailable, nil)
			s.must(t, waiting(time.Hour, true)) // gives its place back
			s.store.set(nil, nil)
			broken := []policy.Request{waiting(time.Hour, true), {Cost: -1}}
			s.DecideAtomic(t.Context(), broken, make([]ports.Answer, 2))
		}
		assert.Equal(t, 3, s.observer.count("full"))
	})
}

// A caller that leaves while it waits has spent its tokens, and holds no permit.
func TestWait_aCallerThatLeavesReleasesItsPermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := patientWithPermits(t)
		first := s.must(t, waiting(time.Hour, true))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		d, err := s.Decide(ctx, waiting(time.Hour, true))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Empty(t, d.Permit)
		synctest.Wait()
		assert.Equal(t, 1, s.observer.count("left"))
		peek := s.must(t, of("a", "t", 0))
		assert.Equal(t, domain.Tokens(4), peek.Limits[1].Remaining, "only the first holds one")
		assert.Equal(t, domain.Tokens(-1), peek.Limits[0].Remaining, "its token stays spent")
		time.Sleep(time.Second)
		require.True(t, s.must(t, waiting(time.Hour, true)).Allowed(), "its place is free")
		s.End(first.Permit, ports.Unsettled)
		require.NoError(t, s.Close(t.Context()))
	})
}

// What is done before a wait is part of it, is done for requests that wait only, and if it fails, nothing waits.
func TestWait_beforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := patientWithPermits(t)
		calls, failure := 0, error(nil)
		req := waiting(time.Hour, true)
		req.BeforeWait = func() error {
			calls++
			time.Sleep(30 * time.Millisecond)
			return failure
		}
		s.must(t, req)
		assert.Zero(t, calls)
		began := time.Now()
		s.must(t, req)
		assert.Equal(t, 1, calls)
		assert.Equal(t, 100*time.Millisecond, time.Since(began))
		failure = errors.New("on purpose")
		d, err := s.Decide(t.Context(), req)
		require.ErrorIs(t, err, failure)
		assert.Empty(t, d.Permit)
		assert.Equal(t, 130*time.Millisecond, time.Since(began))
		synctest.Wait()
		assert.Equal(t, 1, s.observer.count("left"))
		assert.Equal(t, domain.Tokens(3), s.must(t, of("a", "t", 0)).Limits[1].Remaining, "the first two hold one")
		require.NoError(t, s.Close(t.Context()))
	})
}

// A permit is renewed while its request waits.
func TestWait_thePermitIsHeldMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy.Policy{
			Key: clientkey.Key{byHeader}, MaxWait: time.Minute,
			Limits: []domain.Limit{mustLimit(t, "burst", "1/m", 1), mustConcurrent(t, "parallel", 5, time.Second)},
		}
		s := fixtureOf(t, p)
		s.ticks()
		s.must(t, waiting(time.Hour, true))
		d := s.must(t, waiting(time.Hour, true))
		require.Equal(t, time.Minute, d.Wait)
		assert.Equal(t, domain.Tokens(3), s.must(t, of("a", "t", 0)).Limits[1].Remaining)
		require.NoError(t, s.Close(t.Context()))
	})
}
