package app_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func failing(cause error) func(*ports.TakeRequest) error {
	return func(*ports.TakeRequest) error { return fmt.Errorf("%w: connection refused", cause) }
}

func TestDecide_failureModesAnswerForTheStore(t *testing.T) {
	const deny, pass, unavailable = decision.OutcomeDenied, decision.OutcomeAllowed, decision.OutcomeUnavailable
	for _, c := range []struct {
		mode     policy.FailureMode
		cause    error
		reported policy.FailureMode
		outcomes [4]decision.Outcome // of four takes from a bucket of three
		known    bool
	}{
		{policy.FailOpen, ports.ErrUnavailable, policy.FailOpen, [4]decision.Outcome{pass, pass, pass, pass}, false},
		{policy.FailOpen, ports.ErrCorrupt, policy.FailOpen, [4]decision.Outcome{pass, pass, pass, pass}, false},
		{policy.FailClosed, ports.ErrUnavailable, policy.FailClosed, [4]decision.Outcome{unavailable, unavailable, unavailable, unavailable}, false},
		{policy.FailLocal, ports.ErrUnavailable, policy.FailLocal, [4]decision.Outcome{pass, pass, pass, deny}, true},
		{policy.FailOpen, ports.ErrOverloaded, policy.FailLocal, [4]decision.Outcome{pass, pass, pass, deny}, true},
		{policy.FailClosed, ports.ErrOverloaded, policy.FailClosed, [4]decision.Outcome{unavailable, unavailable, unavailable, unavailable}, false},
	} {
		t.Run(fmt.Sprintf("%s after %v", c.mode, c.cause), func(t *testing.T) {
			s := newFixture(t, byHeader, c.mode)
			s.store.fail = failing(c.cause)
			for i, want := range c.outcomes {
				d, err := s.Decide(t.Context(), take("a"))
				require.NoError(t, err)
				assert.Equal(t, want, d.Outcome, "take %d", i+1)
				assert.Equal(t, decision.StoreFallback, d.Store)
				assert.Equal(t, c.known, d.LevelKnown)
				require.Len(t, d.Limits, 1)
				assert.Equal(t, domain.Tokens(3), d.Limits[0].Capacity)
			}
			assert.Equal(t, []policy.FailureMode{c.reported, c.reported, c.reported, c.reported}, s.observer.failures)
			assert.Len(t, s.observer.decisions, 4)
		})
	}
}

func TestDecide_deniesIfTheLocalStoreFailsToo(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailLocal)
	s.store.fail, s.local.fail = failing(ports.ErrUnavailable), failing(ports.ErrUnavailable)
	d, err := s.Decide(t.Context(), take("a"))
	require.NoError(t, err)
	assert.Equal(t, decision.OutcomeUnavailable, d.Outcome)
}

func TestDecide_oneFailedSlotLeavesItsNeighbours(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailClosed)
	s.store.fail = func(r *ports.TakeRequest) error {
		if r.Key == "default:h:x-client-id=broken" {
			return ports.ErrCorrupt
		}
		return nil
	}
	answers := make([]ports.Answer, 3)
	s.DecideMany(t.Context(), []policy.Request{take("a"), take("broken"), take("b")}, answers)
	for i, want := range []decision.Outcome{decision.OutcomeAllowed, decision.OutcomeUnavailable, decision.OutcomeAllowed} {
		require.NoError(t, answers[i].Err)
		assert.Equal(t, want, answers[i].Decision.Outcome, "answer %d", i)
	}
}

func TestDecide_refundAndChargeHaveNoFailureMode(t *testing.T) {
	for _, mode := range []policy.FailureMode{policy.FailOpen, policy.FailClosed, policy.FailLocal} {
		s := newFixture(t, byHeader, mode)
		s.store.fail = failing(ports.ErrUnavailable)
		for _, op := range []domain.Op{domain.OpRefund, domain.OpCharge} {
			_, err := s.Decide(t.Context(), policy.Request{Op: op, Key: "a", Cost: 1})
			assert.ErrorIs(t, err, ports.ErrUnavailable, "%v under %s", op, mode)
		}
		assert.Equal(t, []policy.FailureMode{"", ""}, s.observer.failures, "no mode decided")
		assert.Empty(t, s.local.keys())
	}
}

func TestDecide_chargeBeyondTheDebtIsRefused(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	_, err := s.Decide(t.Context(), policy.Request{Op: domain.OpCharge, Key: "a", Cost: domain.MaxCost})
	require.ErrorIs(t, err, domain.ErrDebtExceeded)
	assert.Empty(t, s.store.keys())
}
