package app

import (
	"context"
	"slices"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// takeLinked decides takes of which several pass together or not at all. Those of one plan always do; with together,
// those of all plans do, and open says whether what needs no store lets pass.
//
// All are asked at once, wherever their shards are. When one is denied, those that are known to have taken give back, in
// one further call: a refund that is lost only denies, one that is sent twice would give, so none is ever sent again.
// What is not known to have taken is not refunded.
func (r *RateLimiter) takeLinked(ctx context.Context, w *round, reqs []domain.Request, answers []ports.Answer, together, open bool) {
	r.foresee(w, together)
	r.askStore(ctx, w)
	for j := range w.plans {
		p := &w.plans[j]
		r.settle(ctx, w, p, &answers[p.index])
		open = open && answers[p.index].Err == nil && (w.planPasses(p) || w.letsPass(p))
	}
	for j := range w.plans {
		p := &w.plans[j]
		op := reqs[p.index].Op
		if (op != domain.OpTake && op != domain.OpCharge) || p.cost == 0 {
			continue
		}
		if answers[p.index].Err == nil && w.planPasses(p) && (open || !together) {
			continue
		}
		if op == domain.OpCharge && answers[p.index].Err != domain.ErrDebtExceeded { //nolint:errorlint // it is ours, as it is
			continue // it may have been carried out, and says so
		}
		for i := p.first; i < p.end; i++ {
			w.back.note(w, i)
		}
	}
	w.back.send(ctx, r, w)
	for j := range w.plans {
		w.plans[j].givenBack = together && !open
	}
}

// planPasses reports whether every take of a plan stands for a yes.
func (w *round) planPasses(p *plan) bool {
	for i := p.first; i < p.end; i++ {
		if !w.passes(i) {
			return false
		}
	}
	return true
}

// letsPass reports whether the request may pass whatever the limits say.
func (w *round) letsPass(p *plan) bool { return p.policy.Mode == domain.ModeShadow }

// foresee marks what the shortcut knows to be denied, and what need not be asked therefore: so a client that is over
// one limit costs the store of the others nothing.
func (r *RateLimiter) foresee(w *round, together bool) {
	if r.foreseer == nil {
		return
	}
	for i := range w.takes {
		if op := w.takes[i].Op; op != domain.OpTake && op != domain.OpPeek {
			return // it may give back what a later one needs
		}
	}
	denied := false
	for j := range w.plans {
		p := &w.plans[j]
		if p.end-p.first < 2 && !together {
			continue // the shortcut will be asked for it as for any other
		}
		hit := false
		for i := p.first; i < p.end && !hit; i++ {
			if hit = r.foreseer.Foresee(&w.takes[i], &w.results[i]); hit {
				w.leave(p)
				w.states[i] = stateForeseen
			}
		}
		denied = denied || hit && !w.letsPass(p)
	}
	if denied && together {
		for j := range w.plans {
			w.leave(&w.plans[j])
		}
	}
}

// leave marks the takes of a plan that nothing is known about.
func (w *round) leave(p *plan) {
	for i := p.first; i < p.end; i++ {
		if w.states[i] == stateAsked && w.takes[i].Op == domain.OpTake {
			w.states[i] = stateLeft
		}
	}
}

// askStore asks about the takes that are still to be asked.
func (r *RateLimiter) askStore(ctx context.Context, w *round) {
	settled := func(s groupState) bool { return s != stateAsked }
	if !slices.ContainsFunc(w.states, settled) {
		r.store.TakeMany(ctx, w.takes, w.results)
		return
	}
	var asked []int
	for i := range w.takes {
		if w.states[i] == stateAsked {
			asked = append(asked, i)
		}
	}
	if len(asked) == 0 {
		return
	}
	reqs, results := make([]ports.TakeRequest, len(asked)), make([]ports.TakeResult, len(asked))
	for k, i := range asked {
		reqs[k] = w.takes[i]
	}
	r.store.TakeMany(ctx, reqs, results)
	for k, i := range asked {
		w.results[i] = results[k]
	}
}

// refunds are takes to be undone, by where they were carried out.
type refunds struct{ store, local refundList }

type refundList struct {
	takes []ports.TakeRequest
	at    []int // the take that each undoes
}

// note adds a take that is known to have been carried out.
func (b *refunds) note(w *round, i int) {
	list := &b.store
	switch {
	case w.results[i].Err != nil || w.results[i].Verdict != domain.Allowed:
		return
	case w.states[i] == stateLocal:
		list = &b.local
	case w.states[i] != stateAsked:
		return
	}
	undo := w.takes[i]
	undo.Op = domain.OpRefund
	list.takes, list.at = append(list.takes, undo), append(list.at, i)
}

// send undoes what was noted, also for a caller who has gone meanwhile.
func (b *refunds) send(ctx context.Context, r *RateLimiter, w *round) {
	if len(b.store.takes)+len(b.local.takes) == 0 {
		return
	}
	ctx = context.WithoutCancel(ctx)
	b.store.send(ctx, r.store, w)
	b.local.send(ctx, r.local, w)
}

// send undoes the takes, and puts the levels that are reached in the place of those seen before.
func (l *refundList) send(ctx context.Context, store ports.BucketStore, w *round) {
	if len(l.takes) == 0 {
		return
	}
	results := make([]ports.TakeResult, len(l.takes))
	store.TakeMany(ctx, l.takes, results)
	for k, i := range l.at {
		if results[k].Err == nil {
			results[k].Store = w.results[i].Store
			w.results[i] = results[k]
		}
	}
	l.reset()
}

func (l *refundList) reset() {
	clear(l.takes)
	l.takes, l.at = l.takes[:0], l.at[:0]
}
