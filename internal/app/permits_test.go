package app_test

import (
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

func mustConcurrent(t require.TestingT, name string, n domain.Tokens, lease time.Duration) domain.Limit {
	l, err := domain.NewConcurrency(name, n, lease)
	require.NoError(t, err)
	return l
}

// parallel lets each client have 2 requests at once, and each tenant 100 tokens.
func parallel(t require.TestingT, mode policy.FailureMode) policy.Policy {
	return policy.Policy{
		Key:            clientkey.Key{byHeader},
		Limits:         []domain.Limit{mustLimit(t, "burst", "1/h", 50), mustConcurrent(t, "parallel", 2, time.Minute), mustLimit(t, "tenant", "1/h", 100)},
		LimitKeys:      map[string]clientkey.Key{"tenant": {byTenant}},
		OnStoreFailure: mode,
	}
}

func holding(cost domain.Tokens) policy.Request {
	req := of("a", "t", cost)
	req.HoldsPermit = true
	return req
}

func TestPermits_aTakeHoldsOneUntilItsRelease(t *testing.T) {
	s := fixtureOf(t, parallel(t, policy.FailOpen))
	first := s.must(t, holding(10))
	require.True(t, first.Allowed())
	assert.Equal(t, time.Minute, first.Lease)
	assert.True(t, domain.ValidPermitID(first.PermitID))
	cost, asked, ok := domain.ParsePermitID(first.PermitID)
	assert.True(t, ok)
	assert.Equal(t, domain.Tokens(10), cost)
	assert.Positive(t, asked)
	second := s.must(t, holding(10))
	require.True(t, second.Allowed())
	assert.NotEqual(t, first.PermitID, second.PermitID)

	third := s.must(t, holding(10))
	require.Equal(t, decision.OutcomeDenied, third.Outcome)
	assert.Empty(t, third.Permit)
	assert.Equal(t, []bool{true, false, true}, []bool{third.Limits[0].Allowed, third.Limits[1].Allowed, third.Limits[2].Allowed})
	assert.Equal(t, domain.Tokens(80), third.Limits[2].Remaining, "the tenant got back what the third had taken")

	released, err := s.Release(t.Context(), first.Permit, 14)
	require.NoError(t, err)
	assert.True(t, released)
	released, err = s.Release(t.Context(), first.Permit, 14)
	require.NoError(t, err)
	assert.False(t, released, "it has ended")
	released, err = s.Release(t.Context(), second.Permit, 3)
	require.NoError(t, err)
	assert.True(t, released)
	d := s.must(t, holding(0))
	assert.Equal(t, []domain.Tokens{33, 2, 83}, []domain.Tokens{d.Limits[0].Remaining, d.Limits[1].Remaining, d.Limits[2].Remaining},
		"17 are spent, of each limit, once")
	assert.Empty(t, d.Permit, "a peek holds nothing")
}

func TestPermits_holdIsRenewedAndEndsInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fixtureOf(t, parallel(t, policy.FailOpen))
		s.ticks()
		req := holding(10)
		req.Hold = true
		d := s.must(t, req)
		require.True(t, d.Allowed())
		assert.Equal(t, 1, s.observer.count("held"))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		assert.Equal(t, domain.Tokens(1), s.must(t, holding(0)).Limits[1].Remaining)
		s.End(d.Permit, 4)
		synctest.Wait()
		after := s.must(t, holding(0))
		assert.Equal(t, []domain.Tokens{46, 2, 96}, []domain.Tokens{after.Limits[0].Remaining, after.Limits[1].Remaining, after.Limits[2].Remaining})
		assert.Equal(t, 0, s.observer.count("held"))
		assert.Equal(t, 0, s.observer.count("expired"))
		require.NoError(t, s.Close(t.Context()))
	})
}

var _ ports.HoldObserver = (*fakeObserver)(nil)
