package domain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestCharge_goesBelowZeroAndIsPaidBackByTime(t *testing.T) {
	playStory(t, mustLimit(t, "5/s", 3), []step{
		{op: domain.OpCharge, cost: 2, want: allowed(1)},
		{op: domain.OpCharge, cost: 4, want: allowed(-3)},
		{cost: 1, want: denied(-3, 800*ms)},
		{at: 100 * ms, op: domain.OpPeek, want: allowed(-3)}, // -2.5, rounded down
		{at: 600 * ms, op: domain.OpPeek, want: allowed(0)},
		{at: 799 * ms, cost: 1, want: denied(0, ms)},
		{at: 800 * ms, cost: 1, want: allowed(0)},
	})
}

func TestCharge_stopsAtAHundredYearsOfRefilling(t *testing.T) {
	playStory(t, mustLimit(t, "1/24h", 1), []step{
		{op: domain.OpCharge, cost: 36_502, want: refused(1)},
		{op: domain.OpCharge, cost: 36_501, want: allowed(-36_500)},
		{op: domain.OpCharge, cost: 1, want: refused(-36_500)},
		{at: 24*time.Hour - us, op: domain.OpCharge, cost: 1, want: refused(-36_500)},
		{at: 24 * time.Hour, op: domain.OpCharge, cost: 1, want: allowed(-36_500)},
		{at: 24 * time.Hour, cost: 1, want: denied(-36_500, domain.MaxFill+24*time.Hour)},
	})
}

func TestCharge_stopsAt2To52Credits(t *testing.T) {
	// A token is worth 10^9 + 1 credits, and 2^52 of those hold 4,503,599.6 of it. They refill within 72 years.
	playStory(t, mustLimit(t, "2/1000000001us", 1), []step{
		{op: domain.OpCharge, cost: 4_503_601, want: refused(1)},
		{op: domain.OpCharge, cost: 4_503_600, want: allowed(-4_503_599)},
		{op: domain.OpCharge, cost: 1, want: refused(-4_503_599)},
		{at: 200 * time.Second, op: domain.OpCharge, cost: 1, want: allowed(-4_503_600)}, // -4,503,599.6
		{at: 200 * time.Second, op: domain.OpCharge, cost: 1, want: refused(-4_503_600)},
		{at: 200 * time.Second, op: domain.OpRefund, cost: 4_503_600, want: allowed(0)},
	})
	// The products of these costs and a token's credits would pass 2^63 and come out negative, and positive.
	playStory(t, mustLimit(t, "1/876000h", 1), []step{
		{op: domain.OpCharge, cost: 2_926, want: refused(1)},
		{op: domain.OpCharge, cost: domain.MaxCost, want: refused(1)},
		{op: domain.OpCharge, cost: 2, want: allowed(-1)},
		{op: domain.OpCharge, cost: 1, want: refused(-1)},
	})
}

// groupStep is one operation on a pair of buckets of 5/s: the first of capacity 2, the second of 5.
type groupStep struct {
	op      domain.Op
	cost    domain.Tokens
	verdict domain.Verdict
	left    [2]domain.Tokens
}

func TestGroup_allLimitsOrNone(t *testing.T) {
	g := newGroup(mustLimit(t, "5/s", 2), mustLimit(t, "5/s", 5))
	story := []groupStep{
		{domain.OpTake, 2, domain.Allowed, [2]domain.Tokens{0, 3}},
		{domain.OpTake, 1, domain.Denied, [2]domain.Tokens{0, 3}},
		{domain.OpRefund, 1, domain.Allowed, [2]domain.Tokens{1, 4}},
		{domain.OpRefund, 3, domain.Allowed, [2]domain.Tokens{2, 5}},
		{domain.OpTake, 3, domain.Denied, [2]domain.Tokens{2, 5}},
		{domain.OpCharge, 4, domain.Allowed, [2]domain.Tokens{-2, 1}},
		{domain.OpTake, 1, domain.Denied, [2]domain.Tokens{-2, 1}},
		{domain.OpReset, 0, domain.Allowed, [2]domain.Tokens{2, 5}},
	}
	playGroup(t, g, story)

	first, second := mustLimit(t, "5/s", 2), mustLimit(t, "1/s", 1)
	playGroup(t, newGroup(first, second), []groupStep{
		{domain.OpTake, 1, domain.Allowed, [2]domain.Tokens{1, 0}},
		{domain.OpTake, 1, domain.Denied, [2]domain.Tokens{1, 0}}, // the last limit denies: the first keeps its token
	})
}

func TestGroup_aChargeThatOneLimitRefusesChargesNone(t *testing.T) {
	g := newGroup(mustLimit(t, "5/s", 2), mustLimit(t, "1/24h", 5))
	playGroup(t, g, []groupStep{
		{domain.OpCharge, 36_506, domain.DebtExceeded, [2]domain.Tokens{2, 5}},
		{domain.OpCharge, 36_505, domain.Allowed, [2]domain.Tokens{-36_503, -36_500}},
		{domain.OpCharge, 1, domain.DebtExceeded, [2]domain.Tokens{-36_503, -36_500}},
	})
}

func playGroup(t *testing.T, g *group, story []groupStep) {
	t.Helper()
	for i, s := range story {
		verdict, buckets, _ := g.apply(s.op, s.cost, t0)
		left := [2]domain.Tokens{g.limits[0].Remaining(buckets[0]), g.limits[1].Remaining(buckets[1])}
		assert.Equalf(t, s.verdict, verdict, "step %d: %s %d", i, s.op, s.cost)
		assert.Equalf(t, s.left, left, "step %d: %s %d", i, s.op, s.cost)
	}
}
