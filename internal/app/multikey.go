package app

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Takes that pass together or not at all may be on several shards. The store is asked about all of them in one call. If one
// is denied, a second call refunds the takes that are known to have been carried out. A refund is never sent again: one that
// is lost denies too much, one that ran twice would admit too much.

// askForSeveral asks the store about the takes in the state takeAsked, but not about those of a request of which one is known to be
// denied.
func (r *RateLimiter) askForSeveral(ctx context.Context, b *batchState, atomic bool) {
	take := r.store.TakeMany
	if r.denials != nil && !b.mayGiveBack() { // what is given back may be what a later take needs
		now := r.denials.Now()
		r.skipKnownDenied(b, atomic, now)
		take = func(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
			r.denials.TakeUnknown(ctx, reqs, results, now)
		}
	}
	if !slices.ContainsFunc(b.states, func(s takeState) bool { return s != takeAsked }) {
		take(ctx, b.takes, b.results)
		return
	}
	var index []int
	var reqs []ports.TakeRequest
	for i := range b.takes {
		if b.states[i] == takeAsked {
			index, reqs = append(index, i), append(reqs, b.takes[i])
		}
	}
	if len(reqs) == 0 {
		return
	}
	results := make([]ports.TakeResult, len(reqs))
	take(ctx, reqs, results)
	for k, i := range index {
		b.results[i] = results[k]
	}
}

func (b *batchState) mayGiveBack() bool {
	for j := range b.resolved {
		if b.resolved[j].req.Op.MayGiveBack() {
			return true
		}
	}
	return false
}

// skipKnownDenied marks the takes that the denial cache denies at now, and those that need not be asked because of them. A client
// that is over one limit then costs the shards of its other limits nothing.
func (r *RateLimiter) skipKnownDenied(b *batchState, atomic bool, now time.Duration) {
	denied := false
	for j := range b.resolved {
		q := &b.resolved[j]
		known := false
		for i := q.first; i < q.end && !known; i++ {
			if known = r.denials.KnownDenied(&b.takes[i], &b.results[i], now); known {
				b.skip(q)
				b.states[i] = takeKnownDenied
			}
		}
		denied = denied || known && q.policy.Mode != policy.ModeShadow
	}
	if denied && atomic {
		for j := range b.resolved {
			b.skip(&b.resolved[j])
		}
	}
}

// skip marks the takes of a request that need not be asked any more.
func (b *batchState) skip(q *resolved) {
	for i := q.first; i < q.end; i++ {
		if b.states[i] == takeAsked && q.req.Op == domain.OpTake {
			b.states[i] = takeSkipped
		}
	}
}

// undoPartial refunds the takes of requests that do not pass. If atomic is set and one request does not pass, it refunds
// those of all requests; pass says whether the requests that needed no store pass.
func (r *RateLimiter) undoPartial(ctx context.Context, b *batchState, atomic, pass bool) {
	for j := range b.resolved {
		q := &b.resolved[j]
		pass = pass && q.answer.Err == nil && (b.allPass(q) || q.policy.Mode == policy.ModeShadow)
	}
	for j := range b.resolved {
		q := &b.resolved[j]
		q.undone = atomic && !pass
		err := q.answer.Err
		switch {
		case err == nil && b.allPass(q) && !q.undone: // the request keeps its tokens
		case q.answer.Decision.Cost == 0:
		case q.req.Op == domain.OpTake, q.req.Op == domain.OpCharge && err == domain.ErrDebtExceeded: //nolint:errorlint // we set exactly this error
			// A charge that failed otherwise stays: it may have been carried out, and the error says so.
			for i := q.first; i < q.end; i++ {
				if !b.peeksOnly(q, i) {
					b.undo.add(b, i)
				}
			}
		}
	}
	b.undo.store.send(ctx, r.store, b, r.lost)
	b.undo.local.send(ctx, r.local, b, func(*ports.TakeRequest, error) {})
}

// undoLists are the takes to refund, by the store that carried them out.
type undoLists struct{ store, local undoList }

type undoList struct {
	refunds []ports.TakeRequest
	index   []int // of the take that each refunds
}

// add adds a take, if it is known to have been carried out.
func (u *undoLists) add(b *batchState, i int) {
	list := &u.store
	switch {
	case b.results[i].Err != nil || b.results[i].Verdict != domain.Allowed:
		return
	case b.states[i] == takeLocal:
		list = &u.local
	case b.states[i] != takeAsked:
		return
	}
	refund := b.takes[i]
	if refund.Op == domain.OpTake {
		refund.Op, refund.TakenAt = domain.OpUndo, b.results[i].Now
	} else { // a charge, which leaves limits with a cost of their own alone
		refund.Op, refund.TakenAt = domain.OpRefund, cmp.Or(refund.TakenAt, b.results[i].Now)
	}
	list.refunds, list.index = append(list.refunds, refund), append(list.index, i)
}

// send sends the refunds to store, even if the caller has cancelled. The results of refunded takes then hold the levels after
// the refund. lost is called for those that failed.
func (l *undoList) send(ctx context.Context, store ports.BucketStore, b *batchState, lost func(*ports.TakeRequest, error)) {
	if len(l.refunds) == 0 {
		return
	}
	results := make([]ports.TakeResult, len(l.refunds))
	store.TakeMany(context.WithoutCancel(ctx), l.refunds, results)
	for k, i := range l.index {
		if results[k].Err == nil {
			results[k].Store = b.results[i].Store
			b.results[i] = results[k]
		} else {
			lost(&l.refunds[k], results[k].Err)
		}
	}
	clear(l.refunds)
	l.refunds, l.index = l.refunds[:0], l.index[:0]
}
