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
		case q.req.Op == domain.OpTake && cost > 0:
			limited, holds := underConcurrency(takes)
			if limited && !q.req.HoldsPermit && !q.req.Hold {
				return ports.ErrCannotHold
			}
			if !holds {
				break
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

// underConcurrency reports whether a concurrency limit is asked about, and whether one of the takes holds a permit of it. Those that only
// peek, at a shared limit in shadow mode, hold none.
func underConcurrency(takes []ports.TakeRequest) (limited, holds bool) {
	for i := range takes {
		if holdsPermit(&takes[i]) {
			limited, holds = true, holds || takes[i].Op == domain.OpTake
		}
	}
	return limited, holds
}

func holdsPermit(take *ports.TakeRequest) bool {
	has, _ := hasConcurrency(take.Limits)
	return has
}
