package porttest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func withCost(t *testing.T, l domain.Limit, cost domain.Tokens) domain.Limit {
	t.Helper()
	l, err := l.WithCost(cost)
	require.NoError(t, err)
	return l
}

func costOfTheLimit(t *testing.T, h Harness) {
	b := h.bench(t)
	tokens := limit(t, "tokens", "1/h", 1000)
	requests, daily := withCost(t, limit(t, "requests", "1/h", 5), 2), withCost(t, quota(t, "daily", 3, "day"), 1)
	all := []domain.Limit{tokens, requests, daily}
	require.Equal(t, domain.Allowed, b.take(key("a"), 400, all...), "each limit takes its own cost")
	assert.Equal(t, []domain.Tokens{600, 3, 2}, b.remaining(key("a"), all...))
	require.Equal(t, domain.Allowed, b.take(key("a"), 1, all...), "also from a cheaper request")
	assert.Equal(t, []domain.Tokens{599, 1, 1}, b.remaining(key("a"), all...))
	assert.Equal(t, domain.Allowed, b.take(key("a"), 0, all...), "a cost of 0 peeks")
	assert.Equal(t, []domain.Tokens{599, 1, 1}, b.remaining(key("a"), all...))

	r := b.do(domain.OpTake, key("a"), 1, all...)
	require.Equal(t, domain.Denied, r.Verdict, "requests has 1 of the 2 that it takes")
	assert.Equal(t, []domain.Tokens{599, 1, 1}, b.remaining(key("a"), all...))
	wait := requests.RetryAfter(r.States[1], 1, 0, r.Now)
	assert.Equal(t, time.Hour, wait)
	b.Advance(wait)
	assert.Equal(t, domain.Allowed, b.take(key("a"), 1, tokens, requests))

	b.do(domain.OpRefund, key("b"), 7, all...)
	b.take(key("b"), 500, all...)
	b.do(domain.OpRefund, key("b"), 100, all...)
	assert.Equal(t, []domain.Tokens{600, 3, 2}, b.remaining(key("b"), all...), "a refund leaves limits with their own cost alone")
	b.do(domain.OpCharge, key("b"), 2000, all...)
	assert.Equal(t, []domain.Tokens{-1400, 3, 2}, b.remaining(key("b"), all...), "and so does a charge")
	b.do(domain.OpReset, key("b"), 0, all...)
	assert.Equal(t, []domain.Tokens{1000, 5, 3}, b.remaining(key("b"), all...), "a reset does not")

	require.Equal(t, domain.Allowed, b.do(domain.OpCharge, key("c"), 9, requests, daily).Verdict)
	assert.False(t, b.Holds(key("c")), "nothing was charged")
}

func undoIsExact(t *testing.T, h Harness) {
	b := h.bench(t)
	daily := quota(t, "daily", 20, "day")
	all := []domain.Limit{
		limit(t, "tokens", "1/8760h", 20), withCost(t, limit(t, "requests", "1/8760h", 20), 2), daily,
		withCost(t, quota(t, "month", 20, "month"), 3),
	}
	b.toPeriod(daily, 0)
	b.take(key("a"), 4, all...)
	before := b.remaining(key("a"), all...)
	taken := b.do(domain.OpTake, key("a"), 7, all...).Now
	assert.Equal(t, []domain.Tokens{9, 16, 9, 14}, b.remaining(key("a"), all...))
	b.Advance(time.Second)
	undo := ports.TakeRequest{Op: domain.OpUndo, Key: key("a"), Limits: all, Cost: 7, TakenAt: taken}
	r := ports.Take(t.Context(), b.Store, undo)
	require.NoError(t, r.Err)
	assert.Equal(t, domain.Allowed, r.Verdict)
	assert.Equal(t, before, b.remaining(key("a"), all...))

	undo.Cost = domain.MaxCost
	for range 9 {
		require.NoError(t, ports.Take(t.Context(), b.Store, undo).Err)
	}
	assert.Equal(t, []domain.Tokens{20, 20, 20, 20}, b.remaining(key("a"), all...), "no limit has more than its capacity")
	undo.Key = key("new")
	require.NoError(t, ports.Take(t.Context(), b.Store, undo).Err)
	assert.False(t, b.Holds(key("new")))
}

// Equal takes in one call may be decided as one: as many pass as if they were asked one after the other.
func equalTakes(t *testing.T, h Harness) {
	b := h.bench(t)
	bucket, daily := limit(t, "burst", "1/h", 9), quota(t, "daily", 9, "day")
	for _, c := range []struct {
		name   string
		limits []domain.Limit
		cost   domain.Tokens
		pass   int
	}{
		{"bucket", []domain.Limit{bucket}, 2, 4},
		{"quota", []domain.Limit{daily}, 2, 4},
		{"quota and bucket", []domain.Limit{daily, bucket}, 3, 3},
		{"their own costs", []domain.Limit{withCost(t, bucket, 4), withCost(t, daily, 1)}, 3, 2},
		{"more than the quota", []domain.Limit{daily, limit(t, "large", "1/h", 90)}, 10, 0},
	} {
		reqs := make([]ports.TakeRequest, 12)
		for i := range reqs {
			reqs[i] = ports.TakeRequest{Op: domain.OpTake, Key: key(c.name), Limits: c.limits, Cost: c.cost}
		}
		for i, r := range b.many(t.Context(), reqs) {
			require.NoError(t, r.Err)
			want, passed := domain.Denied, min(i+1, c.pass)
			if i < c.pass {
				want = domain.Allowed
			}
			assert.Equal(t, want, r.Verdict, "%s: take %d", c.name, i)
			for j := range c.limits {
				l := &c.limits[j]
				spent := domain.Tokens(passed) * l.CostOf(c.cost)
				assert.Equal(t, l.Capacity()-spent, l.Remaining(r.States[j]), "%s: %s after take %d", c.name, l.Name(), i)
			}
		}
	}
}
