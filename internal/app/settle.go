package app

import (
	"context"
	"errors"
	"slices"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// settle decides what the store's failures mean for a plan, by its policy. It is told to the observer once.
func (r *RateLimiter) settle(ctx context.Context, w *round, p *plan, a *ports.Answer) {
	told := false
	for i := p.first; i < p.end; i++ {
		take, result := &w.takes[i], &w.results[i]
		switch {
		case w.states[i] != stateAsked:
		case result.Err == nil:
			if result.Verdict == domain.DebtExceeded {
				a.Err = domain.ErrDebtExceeded
			}
		default:
			cause := result.Err
			mode, failed := r.failure(ctx, w, p, i)
			if failed {
				w.states[i], a.Err = stateFailed, cause
			}
			if mode != "" && !told {
				told = true
				r.observer.StoreFailed(p.policy.Name, mode, cause)
			}
			if !failed && mode == domain.FailLocal {
				r.decideHere(ctx, take, result, &w.states[i])
			}
		}
	}
}

// failure notes what the failure of one take means. The mode is empty where it says nothing about the store; failed says
// that there can be no decision. Refunds, charges and resets have no failure policy: to say that they were done would be
// a lie.
func (r *RateLimiter) failure(ctx context.Context, w *round, p *plan, i int) (mode domain.FailureMode, failed bool) {
	cause := w.results[i].Err
	switch {
	case errors.Is(cause, ports.ErrInvalidTake):
		return "", true
	case errors.Is(cause, context.Canceled) && ctx.Err() != nil:
		return "", true // the caller has gone; that says nothing about the store
	}
	mode = p.policy.OnStoreFailure
	if mode == domain.FailOpen && errors.Is(cause, ports.ErrOverloaded) {
		// Overload is no outage: a flood of ours must not open the gate.
		mode = domain.FailLocal
	}
	switch op := w.takes[i].Op; {
	case op != domain.OpTake && op != domain.OpPeek:
		return mode, true
	case mode == domain.FailOpen:
		w.states[i] = statePassedOpen
	default:
		w.states[i] = stateRefused
	}
	return mode, false
}

// decideHere asks this process's own memory, also when the caller's deadline has passed: it was the store that let it.
func (r *RateLimiter) decideHere(ctx context.Context, take *ports.TakeRequest, result *ports.TakeResult, state *groupState) {
	if here := ports.Take(context.WithoutCancel(ctx), r.local, *take); here.Err == nil {
		*result, *state = here, stateLocal
	} // else it stays refused: not even our own memory can decide
}

// passes reports whether the take stands for a yes.
func (w *round) passes(i int) bool {
	switch w.states[i] {
	case stateAsked, stateLocal:
		return w.results[i].Verdict == domain.Allowed
	case statePassedOpen, stateLeft:
		return true
	default:
		return false
	}
}

// describe fills in the decision from the states of a plan's takes.
func (w *round) describe(p *plan, d *domain.Decision) {
	d.Limits = slices.Grow(d.Limits[:0], len(p.policy.Limits))[:len(p.policy.Limits)]
	d.Outcome = domain.OutcomeAllowed
	fallback := false
	for i := p.first; i < p.end; i++ {
		g, result, state := &p.groups[i-p.first], &w.results[i], w.states[i]
		passes := w.passes(i)
		switch state {
		case statePassedOpen, stateRefused, stateLeft:
			for k := range g.Limits {
				d.Limits[g.Places[k]] = g.Limits[k].UnknownStatus(passes)
			}
		default:
			if d.Store == "" || state == stateForeseen {
				d.Store, d.At = result.Store, result.Now
			}
			d.LevelKnown = true
			for k := range g.Limits {
				d.Limits[g.Places[k]] = g.Limits[k].Status(result.Buckets[k], result.Now, p.cost, passes)
			}
		}
		fallback = fallback || state == statePassedOpen || state == stateRefused || state == stateLocal
		switch {
		case passes:
		case state == stateRefused && d.Outcome == domain.OutcomeAllowed:
			d.Outcome = domain.OutcomeUnavailable
		case state != stateRefused:
			d.Outcome = domain.OutcomeDenied
		}
	}
	switch {
	case fallback:
		d.Store = domain.StoreFallback
	case d.Store == "":
		d.Store = domain.StoreShortcut // which has denied another request
	}
	if d.Outcome == domain.OutcomeAllowed && !fallback && !p.givenBack && w.takes[p.first].Op == domain.OpTake && p.cost > 0 {
		d.RefundOn = p.policy.RefundOn
	}
}
