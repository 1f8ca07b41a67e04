package domain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// A release of a take of 4 tokens settles what the request cost in the end.
func TestRelease_settlesTheCost(t *testing.T) {
	limits := []domain.Limit{
		mustLimit(t, "1/24h", 10), mustQuota(t, 10), mustCost(t, mustLimit(t, "1/24h", 10), 2), mustCost(t, mustQuota(t, 10), 2), mustConcurrency(t, 1),
	}
	const hour = time.Hour // the quotas' period
	for name, c := range map[string]struct {
		cost    domain.Tokens
		takenAt domain.Instant
		at      time.Duration
		want    domain.Verdict
		left    [5]domain.Tokens
	}{
		"nothing":                        {0, 0, 0, domain.Allowed, [5]domain.Tokens{6, 6, 8, 8, 1}},
		"less than was taken":            {-3, 0, 0, domain.Allowed, [5]domain.Tokens{9, 9, 8, 8, 1}},
		"a refund stops at full":         {-domain.MaxCost, 0, 0, domain.Allowed, [5]domain.Tokens{10, 10, 8, 8, 1}},
		"more than was taken":            {5, 0, 0, domain.Allowed, [5]domain.Tokens{1, 1, 8, 8, 1}},
		"into debt":                      {8, 0, 0, domain.Allowed, [5]domain.Tokens{-2, -2, 8, 8, 1}},
		"beyond what a bucket can owe":   {domain.MaxCost, 0, 0, domain.Allowed, [5]domain.Tokens{-36_500, 6 - domain.MaxCost, 8, 8, 1}},
		"an instant before the lease":    {5, 0, time.Minute - us, domain.Allowed, [5]domain.Tokens{1, 1, 8, 8, 1}},
		"after the lease":                {5, 0, time.Minute, domain.Denied, [5]domain.Tokens{6, 6, 8, 8, 1}},
		"a refund of this period":        {-3, t0, 0, domain.Allowed, [5]domain.Tokens{9, 9, 8, 8, 1}},
		"a refund of an earlier period":  {-3, t0 - 1, 0, domain.Allowed, [5]domain.Tokens{9, 6, 8, 8, 1}},
		"a charge of an earlier period":  {3, t0 - 1, 0, domain.Allowed, [5]domain.Tokens{3, 6, 8, 8, 1}},
		"a charge of a period that ends": {3, t0, hour, domain.Denied, [5]domain.Tokens{6, 10, 8, 10, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(limits...)
			verdict, _, _ := g.do(domain.Operation{Op: domain.OpTake, Cost: 4, Permit: "p"}, t0)
			require.Equal(t, domain.Allowed, verdict)
			release := domain.Operation{Op: domain.OpRelease, Cost: c.cost, TakenAt: c.takenAt, Permit: "p"}
			verdict, states, write := g.do(release, t0.Add(c.at))
			assert.Equal(t, c.want, verdict)
			assert.Equal(t, c.cost != 0 && verdict == domain.Allowed, write)
			assert.Equal(t, c.left, lefts(g, states))
			verdict, states, write = g.do(release, t0.Add(c.at))
			assert.Equal(t, domain.Denied, verdict, "a second release")
			assert.False(t, write)
			assert.Equal(t, c.left, lefts(g, states), "settles nothing")
		})
	}
}

func lefts(g *group, states []domain.State) (left [5]domain.Tokens) {
	for i := range states {
		left[i] = g.limits[i].Remaining(states[i])
	}
	return left
}

func TestRelease_ofAGroupWithoutPermitsDoesNothing(t *testing.T) {
	g := newGroup(mustLimit(t, "1/24h", 10))
	g.apply(domain.OpTake, 4, t0)
	for _, cost := range []domain.Tokens{-2, 0, 2} {
		verdict, states, write := g.do(domain.Operation{Op: domain.OpRelease, Cost: cost, Permit: "p"}, t0)
		assert.Equal(t, domain.Denied, verdict)
		assert.False(t, write)
		assert.Equal(t, domain.Tokens(6), g.limits[0].Remaining(states[0]))
	}
}

// As every other denial, that of a release sets a bucket's time back.
func TestRelease_backwardsTimeIsWritten(t *testing.T) {
	g := newGroup(mustLimit(t, "1/24h", 10), mustConcurrency(t, 1))
	g.do(domain.Operation{Op: domain.OpTake, Cost: 4, Permit: "p"}, t0)
	for _, permit := range []string{"other", "p"} {
		now := g.stored[0].At - 1
		_, states, write := g.do(domain.Operation{Op: domain.OpRelease, Permit: permit}, now)
		assert.True(t, write, permit)
		assert.Equal(t, now, states[0].At, permit)
	}
}
