package porttest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// modelGroup is one bucket group as domain decides it.
type modelGroup struct {
	key     clientkey.BucketKey
	limits  []domain.Limit
	again   []domain.Limit // the same limits in another slice, as after a policy was read again
	states  []domain.State
	permits []*domain.Permits
}

func modelGroups(t *testing.T) []*modelGroup {
	t.Helper()
	burst, slow, daily := limit(t, "burst", "10/s", 20), limit(t, "slow", "3/250ms", 40_000), quota(t, "daily", 50, "day")
	coarse := limit(t, "coarse", "7/8760h", 500) // in ticks of 1 ms
	groups := []*modelGroup{
		{limits: []domain.Limit{burst}},
		{limits: []domain.Limit{daily}},
		{limits: []domain.Limit{coarse}},
		{limits: []domain.Limit{burst, coarse}},
		{limits: []domain.Limit{daily, slow, burst}},
		{limits: []domain.Limit{withCost(t, burst, 3), daily}},
		{limits: []domain.Limit{concurrent(t, "held", 5), burst}},
		{limits: []domain.Limit{withCost(t, daily, 1)}},
	}
	for i, g := range groups {
		g.key, g.again = clientKey(i), append([]domain.Limit(nil), g.limits...)
		g.states, g.permits = make([]domain.State, len(g.limits)), make([]*domain.Permits, len(g.limits))
		for j := range g.limits {
			if g.limits[j].Kind() == domain.KindConcurrency {
				g.permits[j] = new(domain.Permits)
			}
		}
	}
	return groups
}

// shown returns the states without the times of those that say nothing: the store may have forgotten them.
func (g *modelGroup) shown(states []domain.State, now domain.Instant) []domain.State {
	states = append([]domain.State(nil), states...)
	for i := range states {
		if g.limits[i].ResetAfter(states[i], now) == 0 {
			states[i].At = 0
		}
	}
	return states
}

// random is a request to the group.
func (g *modelGroup) random(rnd *rand.Rand, now domain.Instant) ports.TakeRequest {
	ops := []domain.Op{
		domain.OpTake, domain.OpTake, domain.OpTake, domain.OpTake, domain.OpPeek, domain.OpRefund, domain.OpUndo, domain.OpCharge, domain.OpReset,
	}
	req := ports.TakeRequest{Op: ops[rnd.IntN(len(ops))], Key: g.key, Limits: g.limits, Cost: domain.Tokens(1 + rnd.IntN(6))}
	switch {
	case req.Op == domain.OpTake && rnd.IntN(3) == 0:
		req.MaxWait = time.Duration(rnd.IntN(3)) * 300 * time.Millisecond
	case req.Op == domain.OpTake && rnd.IntN(8) == 0:
		req.Cost = 0
	case rnd.IntN(3) == 0:
		req.TakenAt = max(0, now-domain.Instant(rnd.IntN(2))*86_400_000_000)
	}
	return req
}

// equalRequests sends random calls in which most requests repeat others, and decides the same by domain, one after the other.
func equalRequests(t *testing.T, h Harness) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	b, groups := h.bench(t), modelGroups(t)
	byKey := make(map[clientkey.BucketKey]*modelGroup)
	for _, g := range groups {
		byKey[g.key] = g
	}
	now, id := domain.Instant(0), 0
	for range 150 {
		reqs := make([]ports.TakeRequest, 1+rnd.IntN(300))
		for i := range reqs {
			if i > 0 && rnd.IntN(5) > 0 {
				reqs[i] = reqs[max(0, i-1-rnd.IntN(4))]
			} else {
				reqs[i] = groups[rnd.IntN(len(groups))].random(rnd, now)
			}
			if rnd.IntN(4) == 0 {
				reqs[i].Limits = byKey[reqs[i].Key].again
			}
			id++
			reqs[i].Permit = fmt.Sprintf("id-%d", id)
		}
		for i, r := range b.many(t.Context(), reqs) {
			require.NoError(t, r.Err)
			g, op := byKey[reqs[i].Key], reqs[i].Operation()
			verdict, _ := domain.Apply(op, g.limits, g.states, g.permits, r.Now)
			require.Equal(t, verdict, r.Verdict, "request %d: %v of %d from %v", i, op.Op, op.Cost, g.limits)
			require.Equal(t, g.shown(g.states, r.Now), g.shown(r.States, r.Now), "request %d: %v of %d from %v", i, op.Op, op.Cost, g.limits)
			now = r.Now
			if op.Op == domain.OpReset {
				for j := range g.states {
					if g.permits[j] == nil {
						g.states[j] = domain.State{}
					}
				}
			}
		}
		b.Advance(time.Duration(rnd.Int64N(int64(800 * time.Millisecond))))
	}
}
