package app

import (
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// prepareHold sets how long the takes of a request may wait, and the permit that they are to hold or to end. It returns
// ports.ErrCannotHold if the caller cannot hold one.
func (r *RateLimiter) prepareHold(b *batchState, q *resolved, cost domain.Tokens) error {
	takes := b.takes[q.first:q.end]
	if q.hasConcurrency {
		id := ""
		switch {
		case q.req.Op == domain.OpUndo:
			id = q.req.Permit
			r.keeper.undone(id)
		case q.req.Op == domain.OpTake && cost > 0 && holdsAny(takes):
			if !q.req.HoldsPermit && !q.req.Hold {
				return ports.ErrCannotHold
			}
			if !q.req.Hold { // who has it held here releases it by its ID
				if err := permitFits(q, takes); err != nil {
					return err
				}
			}
			id = domain.NewPermitID(newRandom(), cost, domain.InstantOf(r.now()))
			q.permitID = id
		}
		for i := range takes {
			if takes[i].Op == q.req.Op && holdsPermit(&takes[i]) {
				takes[i].Permit = id
			}
		}
	}
	if q.policy.MaxWait > 0 && cost > 0 {
		wait := r.maxWait(q)
		for i := range takes {
			takes[i].MaxWait = wait
		}
	}
	return nil
}

// holdsAny reports whether one of the takes needs a permit. Those that only peek do not.
func holdsAny(takes []ports.TakeRequest) bool {
	for i := range takes {
		if takes[i].Op == domain.OpTake && holdsPermit(&takes[i]) {
			return true
		}
	}
	return false
}

func holdsPermit(take *ports.TakeRequest) bool {
	has, _ := hasConcurrency(take.Limits)
	return has
}
