package domain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

const (
	us = time.Microsecond
	ms = time.Millisecond
)

func TestTake_capacityPassesThenDenied(t *testing.T) {
	playStory(t, mustLimit(t, "5/s", 3), []step{
		{cost: 1, want: allowed(2)},
		{cost: 2, want: allowed(0)},
		{cost: 1, want: denied(0, 200*ms)},
		{cost: 3, want: denied(0, 600*ms)},
	})
}

func TestTake_refillsLinearlyUpToCapacity(t *testing.T) {
	playStory(t, mustLimit(t, "5/s", 3), []step{
		{cost: 3, want: allowed(0)},
		{at: 199 * ms, op: domain.OpPeek, want: allowed(0)},
		{at: 200 * ms, op: domain.OpPeek, want: allowed(1)},
		{at: 400 * ms, op: domain.OpPeek, want: allowed(2)},
		{at: 600 * ms, op: domain.OpPeek, want: allowed(3)},
		{at: time.Hour, op: domain.OpPeek, want: allowed(3)},
		{at: time.Hour, cost: 3, want: allowed(0)},
		{at: time.Hour, cost: 1, want: denied(0, 200*ms)},
	})
}

func TestTake_fractionsAccumulate(t *testing.T) {
	t.Run("a token in three seconds, asked every second", func(t *testing.T) {
		playStory(t, mustLimit(t, "1/3s", 1), []step{
			{cost: 1, want: allowed(0)},
			{at: 1 * time.Second, cost: 1, want: denied(0, 2*time.Second)},
			{at: 2 * time.Second, cost: 1, want: denied(0, 1*time.Second)},
			{at: 3 * time.Second, cost: 1, want: allowed(0)},
			{at: 6*time.Second - us, cost: 1, want: denied(0, us)},
			{at: 6 * time.Second, cost: 1, want: allowed(0)},
		})
	})
	t.Run("a token is no whole number of microseconds, three of them are", func(t *testing.T) {
		playStory(t, mustLimit(t, "3/250ms", 3), []step{
			{cost: 3, want: allowed(0)},
			{at: 83_333 * us, cost: 1, want: denied(0, us)},
			{at: 83_334 * us, cost: 1, want: allowed(0)},
			{at: 166_666 * us, cost: 1, want: denied(0, us)},
			{at: 166_667 * us, cost: 1, want: allowed(0)},
			{at: 249_999 * us, cost: 1, want: denied(0, us)},
			{at: 250_000 * us, cost: 1, want: allowed(0)},
		})
	})
	t.Run("a fraction of a coarse tick", func(t *testing.T) {
		l := mustLimit(t, "7/s", 10_000_000_000) // too large to be counted in microseconds
		require.Equal(t, int64(1000), l.TokenBucket().TickMicros())
		playStory(t, l, []step{
			{op: domain.OpCharge, cost: 1_000_000_000, want: allowed(9_000_000_000)},
			{at: 500 * us, op: domain.OpCharge, cost: 1, want: allowed(8_999_999_999)},
			{at: 999 * us, op: domain.OpCharge, cost: 1, want: allowed(8_999_999_998)},
			{at: 1000 * us, op: domain.OpRefund, cost: 2, want: allowed(9_000_000_000)},
			{at: 142_999 * us, op: domain.OpPeek, want: allowed(9_000_000_000)},
			{at: 143_000 * us, op: domain.OpPeek, want: allowed(9_000_000_001)},
		})
	})
}

func TestTake_backwardsTimeRefillsNothing(t *testing.T) {
	playStory(t, mustLimit(t, "1/s", 2), []step{
		{at: 10 * time.Second, cost: 2, want: allowed(0)},
		{at: 5 * time.Second, cost: 1, want: denied(0, time.Second)},
		// The denial set the bucket's time to 5 s: without that the client would wait until 11 s.
		{at: 6 * time.Second, cost: 1, want: allowed(0)},
		{at: 5 * time.Second, op: domain.OpRefund, cost: 1, want: allowed(1)},
		{at: 6 * time.Second, cost: 2, want: allowed(0)},
	})
}

func TestTake_backwardsTimeIsWrittenExceptByAPeek(t *testing.T) {
	for op, cost := range map[domain.Op]domain.Tokens{domain.OpTake: 3, domain.OpRefund: 1, domain.OpCharge: domain.MaxCost} {
		l := mustLimit(t, "1/24h", 2)
		g := newGroup(l)
		g.stored[0] = l.Full(t0)
		_, buckets, written := g.apply(op, cost, t0-1)
		assert.True(t, written, op)
		assert.Equal(t, []domain.State{l.Full(t0 - 1)}, buckets, op)
	}
	for _, ahead := range []int{0, 1} {
		g := newGroup(mustLimit(t, "1/s", 2), mustLimit(t, "1/s", 2))
		g.stored = []domain.State{g.limits[0].Full(t0 - 2), g.limits[1].Full(t0 - 2)}
		g.stored[ahead].At = t0
		_, _, written := g.apply(domain.OpTake, 3, t0-1)
		assert.True(t, written, "one of the group is enough")
	}
	g := newGroup(mustLimit(t, "1/s", 2))
	g.apply(domain.OpTake, 1, t0)
	_, _, written := g.apply(domain.OpPeek, 0, t0-1)
	assert.False(t, written)
	_, _, written = g.apply(domain.OpTake, 0, t0-1)
	assert.False(t, written, "a take of nothing is a peek")
}

func TestTake_costAboveCapacityNeverPasses(t *testing.T) {
	playStory(t, mustLimit(t, "5/s", 3), []step{
		{cost: 4, want: denied(3, domain.Never)},
		{cost: domain.MaxCost, want: denied(3, domain.Never)},
		{cost: 3, want: allowed(0)},
		{cost: 4, want: denied(0, domain.Never)},
	})
	// The products of these costs and a token's credits would pass 2^63.
	playStory(t, mustLimit(t, "1/876000h", 1), []step{
		{cost: 2_926, want: denied(1, domain.Never)},
		{cost: domain.MaxCost, want: denied(1, domain.Never)},
	})
}

func TestApply_writesOnlyWhatChanged(t *testing.T) {
	story := []struct {
		op    domain.Op
		cost  domain.Tokens
		write bool
	}{
		{domain.OpPeek, 0, false},
		{domain.OpTake, 0, false},
		{domain.OpRefund, 1, false}, // it is full
		{domain.OpTake, 3, false},   // above the capacity
		{domain.OpTake, 2, true},
		{domain.OpTake, 1, false},
		{domain.OpPeek, 0, false},
		{domain.OpCharge, domain.MaxCost, false}, // beyond the debt
		{domain.OpCharge, 1, true},
		{domain.OpRefund, 1, true},
		{domain.OpReset, 0, true},
	}
	g := newGroup(mustLimit(t, "1/24h", 2))
	for i, s := range story {
		_, _, write := g.apply(s.op, s.cost, t0.Add(time.Duration(i)*time.Second))
		assert.Equal(t, s.write, write, "step %d: %s %d", i, s.op, s.cost)
	}
}

func TestPeek_seesTheRefillButLeavesTheStoredBucket(t *testing.T) {
	g := newGroup(mustLimit(t, "1/s", 5))
	g.apply(domain.OpTake, 5, t0)
	before := g.stored[0]
	verdict, buckets, _ := g.apply(domain.OpPeek, 0, t0.Add(2*time.Second))
	assert.Equal(t, domain.Allowed, verdict)
	assert.Equal(t, domain.Tokens(2), g.limits[0].Remaining(buckets[0]))
	assert.Equal(t, before, g.stored[0])
}

func TestRefund_stopsAtFull(t *testing.T) {
	playStory(t, mustLimit(t, "1/s", 5), []step{
		{cost: 3, want: allowed(2)},
		{op: domain.OpRefund, cost: 2, want: allowed(4)},
		{op: domain.OpRefund, cost: 2, want: allowed(5)},
		{op: domain.OpRefund, cost: domain.MaxCost, want: allowed(5)},
		{cost: 5, want: allowed(0)},
		{cost: 1, want: denied(0, time.Second)},
		{at: 500 * ms, op: domain.OpRefund, cost: 5, want: allowed(5)}, // 5.5 would be above full
		{at: 1000 * ms, cost: 5, want: allowed(0)},
		{at: 1500 * ms, cost: 1, want: denied(0, 500*ms)},
	})
	// The products of these costs and a token's credits would pass 2^63 and come out negative, and positive.
	for _, cost := range []domain.Tokens{2_926, domain.MaxCost} {
		playStory(t, mustLimit(t, "1/876000h", 1), []step{
			{cost: 1, want: allowed(0)},
			{op: domain.OpRefund, cost: cost, want: allowed(1)},
		})
	}
}

func TestReset_makesFull(t *testing.T) {
	playStory(t, mustLimit(t, "1/24h", 5), []step{
		{op: domain.OpCharge, cost: 10, want: allowed(-5)},
		{op: domain.OpReset, want: allowed(5)},
		{cost: 5, want: allowed(0)},
	})
}

func TestApply_anUnknownOperationIsAProgrammersMistake(t *testing.T) {
	assert.PanicsWithValue(t, "domain: unknown op(10)", func() { newGroup().apply(10, 1, t0) })
}

func TestOp_checkCost(t *testing.T) {
	cases := []struct {
		op   domain.Op
		cost domain.Tokens
		ok   bool
	}{
		{domain.OpTake, -1, false},
		{domain.OpTake, 0, true},
		{domain.OpTake, domain.MaxCost, true},
		{domain.OpTake, domain.MaxCost + 1, false},
		{domain.OpPeek, 0, true},
		{domain.OpRefund, 0, false},
		{domain.OpRefund, 1, true},
		{domain.OpCharge, 0, false},
		{domain.OpCharge, 1, true},
		{domain.OpCharge, domain.MaxCost + 1, false},
		{domain.OpUndo, 0, false},
		{domain.OpRelease, 0, true},
		{domain.OpRelease, -domain.MaxCost, true},
		{domain.OpRelease, -domain.MaxCost - 1, false},
		{domain.OpRelease, domain.MaxCost, true},
		{domain.OpRelease, domain.MaxCost + 1, false},
		{domain.OpSettle, -domain.MaxCost, true},
		{domain.OpSettle, domain.MaxCost + 1, false},
		{domain.OpRenew, -1, true}, // it has no cost
		{domain.OpList, -1, true},
	}
	for _, c := range cases {
		err := c.op.CheckCost(c.cost)
		assert.Equal(t, c.ok, err == nil, "%s %d: %v", c.op, c.cost, err)
		assert.Equal(t, !c.ok, isFieldError(err, domain.ErrInvalidRequest, "cost"), "%s %d: %v", c.op, c.cost, err)
	}
}

func TestOp_needsPermit(t *testing.T) {
	for op, want := range map[domain.Op][2]bool{ // without a cost, and with one
		domain.OpTake: {false, true}, domain.OpUndo: {true, true}, domain.OpRelease: {true, true}, domain.OpRenew: {true, true},
		domain.OpPeek: {}, domain.OpRefund: {}, domain.OpCharge: {}, domain.OpReset: {}, domain.OpList: {},
		domain.OpSettle: {},
	} {
		assert.Equal(t, want, [2]bool{op.NeedsPermit(0), op.NeedsPermit(1)}, op)
	}
}

// The numbers are part of the script's input.
func TestOp_names(t *testing.T) {
	for i, want := range []string{"take", "peek", "refund", "charge", "reset", "undo", "release", "renew", "list", "settle", "op(10)"} {
		assert.Equal(t, want, domain.Op(i).String())
	}
}
