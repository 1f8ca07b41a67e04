package app_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func failing(cause error) func(*ports.TakeRequest) error {
	return func(*ports.TakeRequest) error { return fmt.Errorf("%w: connection refused", cause) }
}

func TestDecide_failureModesAnswerForTheStore(t *testing.T) {
	const deny, pass, unavailable = domain.OutcomeDenied, domain.OutcomeAllowed, domain.OutcomeUnavailable
	for _, c := range []struct {
		mode     domain.FailureMode
		cause    error
		told     domain.FailureMode
		outcomes [4]domain.Outcome // of four takes from a bucket of three
		known    bool
	}{
		{domain.FailOpen, ports.ErrUnavailable, domain.FailOpen, [4]domain.Outcome{pass, pass, pass, pass}, false},
		{domain.FailOpen, ports.ErrCorrupt, domain.FailOpen, [4]domain.Outcome{pass, pass, pass, pass}, false},
		{domain.FailClosed, ports.ErrUnavailable, domain.FailClosed, [4]domain.Outcome{unavailable, unavailable, unavailable, unavailable}, false},
		{domain.FailLocal, ports.ErrUnavailable, domain.FailLocal, [4]domain.Outcome{pass, pass, pass, deny}, true},
		{domain.FailOpen, ports.ErrOverloaded, domain.FailLocal, [4]domain.Outcome{pass, pass, pass, deny}, true},
		{domain.FailClosed, ports.ErrOverloaded, domain.FailClosed, [4]domain.Outcome{unavailable, unavailable, unavailable, unavailable}, false},
	} {
		t.Run(fmt.Sprintf("%s after %v", c.mode, c.cause), func(t *testing.T) {
			s := newStage(t, byHeader, c.mode)
			s.store.fail = failing(c.cause)
			for i, want := range c.outcomes {
				d, err := s.Decide(t.Context(), take("a"))
				require.NoError(t, err)
				assert.Equal(t, want, d.Outcome, "take %d", i+1)
				assert.Equal(t, domain.StoreFallback, d.Store)
				assert.Equal(t, c.known, d.LevelKnown)
				require.Len(t, d.Limits, 1)
				assert.Equal(t, domain.Tokens(3), d.Limits[0].Capacity)
			}
			assert.Equal(t, []domain.FailureMode{c.told, c.told, c.told, c.told}, s.observer.failures)
			assert.Len(t, s.observer.decisions, 4)
		})
	}
}

func TestDecide_localThatFailsTooDenies(t *testing.T) {
	s := newStage(t, byHeader, domain.FailLocal)
	s.store.fail, s.local.fail = failing(ports.ErrUnavailable), failing(ports.ErrUnavailable)
	d, err := s.Decide(t.Context(), take("a"))
	require.NoError(t, err)
	assert.Equal(t, domain.OutcomeUnavailable, d.Outcome)
}

func TestDecide_oneFailedSlotLeavesItsNeighbours(t *testing.T) {
	s := newStage(t, byHeader, domain.FailClosed)
	s.store.fail = func(r *ports.TakeRequest) error {
		if r.Key == "default:h:x-client-id=broken" {
			return ports.ErrCorrupt
		}
		return nil
	}
	answers := make([]ports.Answer, 3)
	s.DecideMany(t.Context(), []domain.Request{take("a"), take("broken"), take("b")}, answers)
	for i, want := range []domain.Outcome{domain.OutcomeAllowed, domain.OutcomeUnavailable, domain.OutcomeAllowed} {
		require.NoError(t, answers[i].Err)
		assert.Equal(t, want, answers[i].Decision.Outcome, "answer %d", i)
	}
}

func TestDecide_refundAndChargeHaveNoFailureMode(t *testing.T) {
	for _, mode := range []domain.FailureMode{domain.FailOpen, domain.FailClosed, domain.FailLocal} {
		s := newStage(t, byHeader, mode)
		s.store.fail = failing(ports.ErrUnavailable)
		for _, op := range []domain.Op{domain.OpRefund, domain.OpCharge} {
			_, err := s.Decide(t.Context(), domain.Request{Op: op, Key: "a", Cost: 1})
			assert.ErrorIs(t, err, ports.ErrUnavailable, "%v under %s", op, mode)
		}
		assert.Empty(t, s.local.keys())
	}
}

func TestDecide_chargeBeyondTheDebtIsRefused(t *testing.T) {
	s := newStage(t, byHeader, domain.FailOpen)
	_, err := s.Decide(t.Context(), domain.Request{Op: domain.OpCharge, Key: "a", Cost: domain.MaxCost})
	require.ErrorIs(t, err, domain.ErrDebtExceeded)
	assert.Empty(t, s.store.keys())
}
