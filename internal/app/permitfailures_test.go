package app_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func unavailable(*ports.TakeRequest) error { return ports.ErrUnavailable }

func TestPermits_openGrantsOneThatHoldsNothing(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailOpen))
	s.store.fail = unavailable
	for range 5 {
		d := s.must(t, holding(1))
		require.True(t, d.Allowed())
		require.NotEmpty(t, d.Permit)
		assert.Equal(t, time.Minute, d.Lease)
		lease, err := s.Renew(t.Context(), d.Permit)
		require.NoError(t, err, "no store is asked")
		assert.Equal(t, time.Minute, lease)
		released, err := s.Release(t.Context(), d.Permit, 7)
		require.NoError(t, err)
		assert.False(t, released)
	}
}

func TestPermits_localOnesBelongToTheirNode(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailLocal))
	s.store.fail = unavailable
	d := s.must(t, holding(10))
	require.True(t, d.Allowed())
	require.True(t, s.must(t, holding(10)).Allowed())
	require.False(t, s.must(t, holding(10)).Allowed(), "two at once, in this process")

	policies, err := app.NewSinglePolicy(withDefaults(parallel(t, policy.FailLocal)))
	require.NoError(t, err)
	other := app.NewRateLimiter(s.store, &fakeStore{}, policies, s.observer)
	released, err := other.Release(t.Context(), d.Permit, 5)
	require.NoError(t, err)
	assert.False(t, released)
	_, err = other.Renew(t.Context(), d.Permit)
	require.ErrorIs(t, err, ports.ErrPermitEnded)

	lease, err := s.Renew(t.Context(), d.Permit)
	require.NoError(t, err)
	assert.Equal(t, time.Minute, lease)
	released, err = s.Release(t.Context(), d.Permit, 5)
	require.NoError(t, err)
	assert.True(t, released)
	assert.Equal(t, int64(35), s.local.levels()["default:h:x-client-id=a burst"])
	assert.Equal(t, int64(85), s.local.levels()["default:h:x-tenant=t tenant"])
	require.True(t, s.must(t, holding(10)).Allowed())
}

// While the store fails, releases and renewals do too, whatever the mode.
func TestPermits_releaseAndRenewHaveNoFailureMode(t *testing.T) {
	for _, mode := range []policy.FailureMode{policy.FailOpen, policy.FailClosed, policy.FailLocal} {
		s := fixtureOf(t, parallel(t, mode))
		d := s.must(t, holding(10))
		s.store.fail = unavailable
		_, err := s.Release(t.Context(), d.Permit, 4)
		require.ErrorIs(t, err, ports.ErrUnavailable, mode)
		_, err = s.Renew(t.Context(), d.Permit)
		require.ErrorIs(t, err, ports.ErrUnavailable, mode)
		assert.Equal(t, []policy.FailureMode{"", ""}, s.observer.failures)
		s.store.fail = nil
		released, err := s.Release(t.Context(), d.Permit, 4)
		require.NoError(t, err)
		assert.True(t, released, "it may be sent again")
		assert.Equal(t, int64(46), s.store.levels()["default:h:x-client-id=a burst"])
		_, err = s.Renew(t.Context(), d.Permit)
		require.ErrorIs(t, err, ports.ErrPermitEnded)
	}
}

// A release whose answer is lost settles once, however often it is sent.
func TestPermits_aReleaseSettlesOnce(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailOpen))
	d := s.must(t, holding(10))
	s.store.answer = func(req *ports.TakeRequest) error {
		if req.Op == domain.OpRelease {
			return ports.ErrUnavailable
		}
		return nil
	}
	_, err := s.Release(t.Context(), d.Permit, 25)
	require.ErrorIs(t, err, ports.ErrUnavailable)
	s.store.answer = nil
	released, err := s.Release(t.Context(), d.Permit, 25)
	require.NoError(t, err)
	assert.False(t, released)
	after := s.must(t, holding(0))
	assert.Equal(t, domain.Tokens(25), after.Limits[0].Remaining, "settled in the step that ended the permit")
	assert.Equal(t, domain.Tokens(90), after.Limits[2].Remaining, "the estimate stays: whether it was settled is not known")
}

// A permit under two keys ends in two steps, perhaps by two releases. What was taken under a third key is settled by the first step alone.
func TestPermits_releasesOfTwoStepsSettleOnce(t *testing.T) {
	p := ofTwo(t)
	p.Limits = append(p.Limits, mustLimit(t, "address", "1/h", 100))
	p.LimitKeys["address"] = clientkey.Key{byAddress}
	for _, away := range []clientkey.BucketKey{"default:h:x-client-id=a", "default:h:x-tenant=t"} {
		s := fixtureOf(t, p)
		d := s.must(t, holding(50))
		s.store.set(func(req *ports.TakeRequest) error {
			if req.Key == away {
				return ports.ErrUnavailable
			}
			return nil
		}, nil)
		_, err := s.Release(t.Context(), d.Permit, 20)
		require.ErrorIs(t, err, ports.ErrUnavailable)
		s.store.set(nil, nil)
		for _, left := range []bool{true, false} {
			released, err := s.Release(t.Context(), d.Permit, 20)
			require.NoError(t, err)
			assert.Equal(t, left, released)
		}
		assert.Equal(t, int64(80), s.store.levels()["default:ip=192.0.2.7 address"], "%s was away", away)
	}
}

func TestPermits_aCallerThatCannotHoldOneTakesNothing(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailOpen))
	_, err := s.Decide(t.Context(), of("a", "t", 1))
	require.ErrorIs(t, err, ports.ErrCannotHold)
	assert.Zero(t, s.store.asked())
	assert.Equal(t, decision.OutcomeAllowed, s.must(t, of("a", "t", 0)).Outcome, "a peek needs no permit")
	for _, op := range []domain.Op{domain.OpRefund, domain.OpCharge} {
		req := of("a", "t", 1)
		req.Op = op
		s.must(t, req)
	}

	p := parallel(t, policy.FailOpen)
	p.Overrides = []policy.Override{{Keys: []string{"batch"}, Limits: []domain.Limit{mustLimit(t, "parallel", "1/h", 9)}}}
	s = fixtureOf(t, p)
	assert.Empty(t, s.must(t, of("batch", "t", 1)).Permit, "the override has a bucket in its place")
	_, err = s.Decide(t.Context(), of("a", "t", 1))
	require.ErrorIs(t, err, ports.ErrCannotHold)

	p.Mode = policy.ModeShadow
	s = fixtureOf(t, p)
	_, err = s.Decide(t.Context(), of("a", "t", 1))
	require.ErrorIs(t, err, ports.ErrCannotHold, "a policy that enforced would refuse it, too")
	assert.Zero(t, s.store.asked())
}

func TestPermits_aShadowPolicyOnlyPeeksAtASharedLimit(t *testing.T) {
	tenants, err := policy.NewShared(mustConcurrent(t, "tenants", 1, time.Minute), clientkey.Key{byTenant})
	require.NoError(t, err)
	p := policy.Policy{Key: clientkey.Key{byHeader}, Mode: policy.ModeShadow, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 50)}}
	p.Use(tenants)
	s := fixtureOf(t, p)
	_, err = s.Decide(t.Context(), of("a", "t", 1))
	require.ErrorIs(t, err, ports.ErrCannotHold, "as under a policy that enforces")
	assert.Zero(t, s.store.asked())
	for range 2 {
		d := s.must(t, holding(1))
		assert.Equal(t, decision.OutcomeAllowed, d.Outcome)
		assert.Empty(t, d.Permit)
	}

	synctest.Test(t, func(t *testing.T) {
		p.Limits = append(p.Limits, mustConcurrent(t, "parallel", 1, time.Minute))
		s := fixtureOf(t, p)
		s.ticks()
		s.store.set(func(req *ports.TakeRequest) error {
			if req.Op == domain.OpPeek {
				return ports.ErrUnavailable
			}
			return nil
		}, nil)
		d := s.must(t, holding(1))
		require.NotEmpty(t, d.Permit, "of its own limit")
		calls := s.store.asked()
		time.Sleep(30 * time.Second)
		assert.Equal(t, calls, s.store.asked(), "a peek has taken no permit that could be lost")
		released, err := s.Release(t.Context(), d.Permit, ports.Unsettled)
		require.NoError(t, err)
		assert.True(t, released)
		assert.Equal(t, domain.OpRelease, s.store.ops[len(s.store.ops)-1])
		require.NoError(t, s.Close(t.Context()))
	})
}

// The ID of a take that may have been carried out is released, and once more later: the server may carry the take out then.
func TestPermits_aTakeWhoseAnswerIsLostHoldsNothing(t *testing.T) {
	for _, mode := range []policy.FailureMode{policy.FailOpen, policy.FailClosed, policy.FailLocal} {
		synctest.Test(t, func(t *testing.T) {
			s := fixtureOf(t, parallel(t, mode))
			s.ticks()
			var late []ports.TakeRequest
			s.store.fail = func(req *ports.TakeRequest) error {
				if req.Op == domain.OpTake {
					late = append(late, *req)
				}
				return ports.ErrUnavailable
			}
			s.must(t, holding(1))
			time.Sleep(10 * time.Second) // the store is away
			s.store.set(nil, nil)
			releases := func() (n int) {
				s.store.mu.Lock()
				defer s.store.mu.Unlock()
				for _, op := range s.store.ops {
					if op == domain.OpRelease {
						n++
					}
				}
				return n
			}
			for before := releases(); releases() == before; {
				time.Sleep(50 * time.Millisecond)
			}
			assert.Less(t, releases(), 12, "the waits between the tries grow")
			for _, req := range late {
				require.Equal(t, domain.Allowed, ports.Take(t.Context(), s.store, req).Verdict, "it is carried out late")
			}
			require.Equal(t, domain.Tokens(1), s.must(t, holding(0)).Limits[1].Remaining)
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			assert.Equal(t, domain.Tokens(2), s.must(t, holding(0)).Limits[1].Remaining)
			calls := s.store.asked()
			time.Sleep(time.Hour)
			assert.Equal(t, calls, s.store.asked(), "nothing is asked any more")
			require.NoError(t, s.Close(t.Context()))
		})
	}
}

// What was not sent needs no release.
func TestPermits_aTakeThatWasNotSentIsNotReleased(t *testing.T) {
	for _, cause := range []error{fmt.Errorf("%w: %w", ports.ErrUnavailable, ports.ErrNotRun), ports.ErrOverloaded, ports.ErrCorrupt} {
		inBubble(t, func(t *testing.T, s *fixture) {
			s.store.set(func(*ports.TakeRequest) error { return cause }, nil)
			s.must(t, holding(1))
			calls := s.store.asked()
			time.Sleep(time.Minute)
			assert.Equal(t, calls, s.store.asked(), "%v", cause)
		})
	}
}

// If another group denies, the permit is undone; if that is lost, it is released.
func TestPermits_aLostUndoIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fixtureOf(t, parallel(t, policy.FailOpen))
		s.ticks()
		undone := false
		s.store.fail = func(req *ports.TakeRequest) error {
			if req.Op == domain.OpUndo && !undone {
				undone = true
				assert.True(t, domain.ValidPermitID(req.Permit))
				return ports.ErrUnavailable
			}
			return nil
		}
		p := s.must(t, holding(30))
		require.True(t, p.Allowed())
		b := of("b", "t", 45)
		b.HoldsPermit = true
		require.True(t, s.must(t, b).Allowed())
		c := of("c", "t", 40) // the tenant has 25 left
		c.HoldsPermit = true
		require.False(t, s.must(t, c).Allowed())
		require.True(t, undone)
		time.Sleep(time.Second)
		synctest.Wait()
		peek := of("c", "t", 0)
		assert.Equal(t, domain.Tokens(2), s.must(t, peek).Limits[1].Remaining)
		require.NoError(t, s.Close(t.Context()))
	})
}
