package porttest

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func newKeyIsFull(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "1/h", 10)
	for i := range 10 {
		r := b.do(domain.OpTake, key("new"), 1, l)
		require.Equal(t, domain.Allowed, r.Verdict, "take %d of 10", i+1)
		assert.Equal(t, domain.Tokens(9-i), l.Remaining(r.States[0]))
		assert.NotEmpty(t, r.Store, "a result names its store")
	}
	assert.Equal(t, domain.Denied, b.take(key("new"), 1, l), "the eleventh of ten")
}

func denialSpendsNothing(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "1/h", 10)
	b.take(key("a"), 7, l)
	for range 5 {
		require.Equal(t, domain.Denied, b.take(key("a"), 4, l))
	}
	assert.Equal(t, []domain.Tokens{3}, b.remaining(key("a"), l))
	assert.Equal(t, domain.Allowed, b.take(key("a"), 3, l), "what was left can still be spent")
}

func allOrNone(t *testing.T, h Harness) {
	b := h.bench(t)
	wide, narrow := limit(t, "wide", "1/h", 100), limit(t, "narrow", "1/h", 3)
	for _, limits := range [][]domain.Limit{{wide, narrow}, {narrow, wide}} {
		k := key("order-" + limits[0].Name())
		for range 3 {
			require.Equal(t, domain.Allowed, b.take(k, 1, limits...))
		}
		before := b.remaining(k, limits...)
		require.Equal(t, domain.Denied, b.take(k, 1, limits...), "the narrow limit is spent")
		assert.Equal(t, before, b.remaining(k, limits...), "the wide limit kept its tokens")
	}
}

func costAboveCapacity(t *testing.T, h Harness) {
	b := h.bench(t)
	l := limit(t, "burst", "5/s", 10)
	r := b.do(domain.OpTake, key("a"), 11, l)
	assert.Equal(t, domain.Denied, r.Verdict)
	assert.Equal(t, domain.Never, l.RetryAfter(r.States[0], 11, 0, r.Now))
	assert.Equal(t, []domain.Tokens{10}, b.remaining(key("a"), l))

	big := limit(t, "big", "1000000000000/1h", domain.MaxTokens)
	assert.Equal(t, domain.Denied, b.take(key("b"), domain.MaxCost, l, big), "one of two limits is too small")
	assert.Equal(t, domain.Allowed, b.take(key("c"), domain.MaxCost, big))
}

func peekWritesNothing(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "1/h", 10)
	for _, op := range []domain.Op{domain.OpPeek, domain.OpTake} {
		r := b.do(op, key("unseen"), 0, l)
		assert.Equal(t, domain.Allowed, r.Verdict)
		assert.Equal(t, domain.Tokens(10), l.Remaining(r.States[0]))
		assert.False(t, b.Holds(key("unseen")), "%v of cost 0 stored something", op)
	}
	b.drain(key("spent"), l)
	assert.Equal(t, domain.Allowed, b.take(key("spent"), 0, l), "a cost of 0 passes even when nothing is left")
	assert.Equal(t, []domain.Tokens{0}, b.remaining(key("spent"), l))
}

func invalidIsRefused(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "1/h", 10)
	held := []domain.Limit{l, concurrent(t, "parallel", 1)}
	one, many := []domain.Limit{l}, make([]domain.Limit, policy.MaxLimits+1)
	for i := range many {
		many[i] = l
	}
	bad := map[string]ports.TakeRequest{
		"negative cost":     {Op: domain.OpTake, Key: key("a"), Limits: one, Cost: -1},
		"cost too high":     {Op: domain.OpTake, Key: key("a"), Limits: one, Cost: domain.MaxCost + 1},
		"refund of nothing": {Op: domain.OpRefund, Key: key("a"), Limits: one},
		"undo of nothing":   {Op: domain.OpUndo, Key: key("a"), Limits: one},
		"negative time":     {Op: domain.OpRefund, Key: key("a"), Limits: one, Cost: 1, TakenAt: -1},
		"charge of nothing": {Op: domain.OpCharge, Key: key("a"), Limits: one},
		"empty key":         {Op: domain.OpTake, Limits: one, Cost: 1},
		"no limits":         {Op: domain.OpTake, Key: key("a"), Cost: 1},
		"zero limit":        {Op: domain.OpTake, Key: key("a"), Limits: make([]domain.Limit, 1), Cost: 1},
		"too many limits":   {Op: domain.OpTake, Key: key("a"), Limits: many, Cost: 1},
		"unknown operation": {Op: domain.OpSettle + 1, Key: key("a"), Limits: one, Cost: 1},
		"two of one name":   {Op: domain.OpTake, Key: key("a"), Limits: []domain.Limit{l, limit(t, "other", "1/s", 1), l}, Cost: 1},
		"negative charge":   {Op: domain.OpCharge, Key: key("a"), Limits: one, Cost: -5},
		"negative wait":     {Op: domain.OpTake, Key: key("a"), Limits: one, Cost: 1, MaxWait: -1},
		"too long a wait":   {Op: domain.OpTake, Key: key("a"), Limits: one, Cost: 1, MaxWait: policy.MaxMaxWait + 1},
		"take, no permit":   {Op: domain.OpTake, Key: key("a"), Limits: held, Cost: 1},
		"undo, no permit":   {Op: domain.OpUndo, Key: key("a"), Limits: held, Cost: 1},
		"renew, no permit":  {Op: domain.OpRenew, Key: key("a"), Limits: held},
		"hostile permit":    {Op: domain.OpRelease, Key: key("a"), Limits: held, Permit: "a b"},
		"settles too much":  {Op: domain.OpRelease, Key: key("a"), Limits: held, Permit: "a", Cost: domain.MaxCost + 1},
	}
	good := ports.TakeRequest{Op: domain.OpTake, Key: key("good"), Limits: one, Cost: 1}
	for name, req := range bad {
		r := b.many(t.Context(), []ports.TakeRequest{good, req, good})
		require.ErrorIs(t, r[1].Err, ports.ErrInvalidTake, name)
		require.NoError(t, r[0].Err, name)
		require.NoError(t, r[2].Err, name)
	}
	assert.False(t, b.Holds(key("a")))
}

func refundStopsAtFull(t *testing.T, h Harness) {
	b := h.bench(t)
	l, m := limit(t, "burst", "1/h", 10), limit(t, "daily", "1/24h", 100)
	b.take(key("a"), 6, l, m)
	r := b.do(domain.OpRefund, key("a"), 2, l, m)
	assert.Equal(t, domain.Allowed, r.Verdict)
	assert.Equal(t, []domain.Tokens{6, 96}, b.remaining(key("a"), l, m))
	b.do(domain.OpRefund, key("a"), domain.MaxCost, l, m)
	assert.Equal(t, []domain.Tokens{10, 100}, b.remaining(key("a"), l, m))

	b.do(domain.OpRefund, key("new"), 5, l)
	assert.Equal(t, []domain.Tokens{10}, b.remaining(key("new"), l))
	assert.False(t, b.Holds(key("new")), "a full bucket need not be stored")
}

func chargeGoesBelowZero(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "1/s", 10)
	r := b.do(domain.OpCharge, key("a"), 25, l)
	assert.Equal(t, domain.Allowed, r.Verdict)
	assert.Equal(t, domain.Tokens(-15), l.Remaining(r.States[0]))
	assert.Equal(t, domain.Denied, b.take(key("a"), 1, l))
	b.Advance(l.RetryAfter(r.States[0], 1, 0, r.Now))
	assert.Equal(t, domain.Allowed, b.take(key("a"), 1, l), "debt is refilled like anything else")

	slow := limit(t, "slow", "1/24h", 10)
	most := domain.Tokens(100*365 + 10) // what 100 years refill, and the bucket itself
	require.Equal(t, domain.DebtExceeded, b.do(domain.OpCharge, key("b"), most+1, slow).Verdict)
	assert.Equal(t, []domain.Tokens{10}, b.remaining(key("b"), slow), "a refused charge changes nothing")
	require.Equal(t, domain.Allowed, b.do(domain.OpCharge, key("b"), most, slow).Verdict)
	require.Equal(t, domain.DebtExceeded, b.do(domain.OpCharge, key("b"), 1, slow).Verdict)

	require.Equal(t, domain.DebtExceeded, b.do(domain.OpCharge, key("c"), most+1, l, slow).Verdict)
	assert.Equal(t, []domain.Tokens{10, 10}, b.remaining(key("c"), l, slow), "all limits are charged or none")
}

func settlingIsNeverRefused(t *testing.T, h Harness) {
	b, l := h.bench(t), limit(t, "burst", "1/h", 10)
	slow, daily, own := limit(t, "slow", "1/24h", 10), quota(t, "daily", 10, "24h"), withCost(t, limit(t, "requests", "1/h", 10), 1)
	all := []domain.Limit{l, slow, daily, own}
	b.take(key("a"), 4, all...)
	left := func(cost domain.Tokens) []domain.Tokens {
		require.Equal(t, domain.Allowed, b.do(domain.OpSettle, key("a"), cost, all...).Verdict, cost)
		return b.remaining(key("a"), all...)
	}
	assert.Equal(t, []domain.Tokens{8, 8, 8, 9}, left(-2), "less than was taken comes back")
	assert.Equal(t, []domain.Tokens{-1, -1, -1, 9}, left(9), "more is charged, into debt")
	assert.Equal(t, []domain.Tokens{-1, -1, -1, 9}, left(0))
	const most = 100 * 365 // what 100 years refill
	assert.Equal(t, []domain.Tokens{-1 - most, -most, -1 - most, 9}, left(most), "a limit that cannot owe so much owes the most")
	assert.Equal(t, []domain.Tokens{10, 10, 10, 9}, left(-domain.MaxCost), "a refund stops at full")
}

func resetFills(t *testing.T, h Harness) {
	b := h.bench(t)
	l, m := limit(t, "burst", "1/h", 10), limit(t, "daily", "1/24h", 100)
	b.take(key("a"), 7, l, m)
	r := b.do(domain.OpReset, key("a"), 0, l)
	assert.Equal(t, domain.Allowed, r.Verdict)
	assert.Equal(t, domain.Tokens(10), l.Remaining(r.States[0]))
	assert.Equal(t, []domain.Tokens{10, 93}, b.remaining(key("a"), l, m), "a limit that was not named stays")
	b.do(domain.OpReset, key("a"), 0, m)
	assert.False(t, b.Holds(key("a")), "nothing is left to keep")
	b.do(domain.OpReset, key("a"), 0, l, m)
	assert.Equal(t, []domain.Tokens{10, 100}, b.remaining(key("a"), l, m), "a second reset does no harm")
}

func resetRepairs(t *testing.T, h Harness) {
	b := h.bench(t)
	if b.Foreign == nil {
		return
	}
	l, m := limit(t, "burst", "1/h", 10), limit(t, "daily", "1/24h", 100)
	for _, limits := range [][]domain.Limit{{l}, {l, m}} {
		b.take(key("a"), 7, limits...)
		b.Foreign(key("a"), func() {
			for _, op := range []domain.Op{domain.OpTake, domain.OpPeek} {
				r := ports.Take(t.Context(), b.Store, ports.TakeRequest{Op: op, Key: key("a"), Limits: limits, Cost: 1})
				require.ErrorIs(t, r.Err, ports.ErrCorrupt, op)
			}
			r := b.do(domain.OpReset, key("a"), 0, limits...)
			assert.Equal(t, domain.Allowed, r.Verdict)
			assert.Equal(t, domain.Tokens(10), l.Remaining(r.States[0]))
			assert.False(t, b.Holds(key("a")))
			assert.Equal(t, domain.Allowed, b.take(key("a"), 10, limits...))
			assert.Equal(t, domain.Denied, b.take(key("a"), 1, limits...))
		})
	}
}
