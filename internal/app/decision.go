package app

import (
	"slices"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// completeDecision sets what the states and results of a request's takes say.
func (b *batchState) completeDecision(q *resolved) {
	d := &q.answer.Decision
	d.Limits = slices.Grow(d.Limits[:0], len(q.policy.Limits))[:len(q.policy.Limits)]
	d.Outcome = decision.OutcomeAllowed
	fallback, local := false, true
	for i := q.first; i < q.end; i++ {
		positions, limits := q.groups[i-q.first].Positions, b.takes[i].Limits
		result, state, passes := &b.results[i], b.states[i], b.passes(i)
		switch state {
		case takeFailedOpen, takeFailedClosed, takeSkipped:
			for k := range limits {
				d.Limits[positions[k]] = limits[k].UnknownStatus(passes)
			}
		default:
			if d.Store == "" || state == takeKnownDenied {
				d.Store = result.Store
			}
			if !d.LevelKnown || result.Now < d.At {
				d.At = result.Now
			}
			d.LevelKnown = true
			for k := range limits {
				if passes && b.takes[i].MaxWait > 0 {
					d.Wait = max(d.Wait, limits[k].Wait(result.States[k], result.Now))
				}
				d.Limits[positions[k]] = limits[k].Status(result.States[k], result.Now, d.Cost, b.takes[i].MaxWait, passes)
			}
		}
		fallback = fallback || state == takeFailedOpen || state == takeFailedClosed || state == takeLocal
		local = local && state == takeLocal
		switch {
		case passes:
		case state != takeFailedClosed:
			d.Outcome = decision.OutcomeDenied // this goes before OutcomeUnavailable
		case d.Outcome == decision.OutcomeAllowed:
			d.Outcome = decision.OutcomeUnavailable
		}
	}
	switch {
	case fallback:
		d.Store = decision.StoreFallback
	case d.Store == "":
		d.Store = decision.StoreShortcut // the denial cache denied another request of an atomic call
	}
	if d.Outcome != decision.OutcomeAllowed || q.undone {
		d.Wait = 0
	}
	if d.Outcome == decision.OutcomeAllowed && (!fallback || local) && !q.undone && q.req.Op == domain.OpTake && d.Cost > 0 {
		d.Taken, d.Local, d.RefundOn = true, local, q.policy.RefundOn
	}
}

// observe reports a decision that took tokens, or tried to.
func (r *RateLimiter) observe(req *policy.Request, d *decision.Decision) {
	if req.Op == domain.OpTake && d.Cost > 0 {
		r.observer.Decided(req, d)
	}
}
