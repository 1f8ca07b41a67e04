package decision_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func TestSettle_chargesOrRefundsTheDifference(t *testing.T) {
	applied := &policy.Policy{Name: "llm"}
	for _, c := range []struct{ actual, more domain.Tokens }{{4000, 3000}, {1001, 1}, {999, -1}, {0, -1000}} {
		d := decision.Decision{Cost: 1000, Taken: true, At: 77, AppliedPolicy: applied}
		req := policy.Request{Key: "alice", PolicyCost: true, Estimated: true, Body: func() ([]byte, error) { return nil, nil }}
		settling, needed := d.Settle(req, c.actual)
		require.True(t, needed)
		assert.Equal(t, policy.Request{Op: domain.OpSettle, Cost: c.more, Key: "alice", CallerPolicy: applied, TakenAt: 77}, settling)
		assert.Equal(t, c.actual, d.Cost)
		undo := d.Refund(req)
		assert.Equal(t, domain.OpUndo, undo.Op)
		assert.Equal(t, c.actual, undo.Cost, "what is held after settling")
		_, needed = d.Settle(req, c.actual)
		assert.False(t, needed, "it is settled once")
	}
}

func TestSettle_needsNothing(t *testing.T) {
	for name, d := range map[string]decision.Decision{
		"nothing was taken":           {Cost: 1000},
		"the estimate was the cost":   {Cost: 5, Taken: true},
		"the permit's end settles it": {Cost: 1000, Taken: true, Permit: "p"},
	} {
		_, needed := d.Settle(policy.Request{}, 5)
		assert.False(t, needed, name)
	}
	d := decision.Decision{Cost: 1000, Taken: true, Permit: "p"}
	_, _ = d.Settle(policy.Request{}, 5)
	assert.Equal(t, domain.Tokens(5), d.Cost, "a refund returns what the permit's end has left")
}
