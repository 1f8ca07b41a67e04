package app

import (
	"context"
	"sync"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// RateLimiter decides requests by the policies of a source and the buckets of a store. It keeps no state of its
// own. Safe for concurrent use.
type RateLimiter struct {
	store    ports.BucketStore
	foreseer foreseer // the store, if it is one
	local    ports.BucketStore
	policies ports.PolicySource
	observer ports.Observer
	rounds   sync.Pool // of *round
}

var (
	_ ports.Limiter   = (*RateLimiter)(nil)
	_ ports.Inspector = (*RateLimiter)(nil)
)

// foreseer is a store that may know that a take would be denied, without carrying it out: see [Shortcut.Foresee].
type foreseer interface {
	Foresee(req *ports.TakeRequest, result *ports.TakeResult) bool
}

// NewRateLimiter composes a limiter. local is a store in this process: it decides for the failure mode local, and
// when this process is overloaded. It must not be the same as store, or a failure would find the same fault again.
func NewRateLimiter(store, local ports.BucketStore, policies ports.PolicySource, observer ports.Observer) *RateLimiter {
	r := &RateLimiter{
		store: store, local: local, policies: policies, observer: observer,
		rounds: sync.Pool{New: func() any { return new(round) }},
	}
	r.foreseer, _ = store.(foreseer)
	return r
}

// Allow takes one token for a user under the default policy. While the store fails it returns what the policy's
// failure mode says, and no error: the cause goes to the observer. An error means that nothing was decided: the
// userID is empty, or ctx was cancelled.
func (r *RateLimiter) Allow(ctx context.Context, userID string) (bool, error) {
	if userID == "" {
		return false, &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "userID", Reason: "must not be empty"}
	}
	d, err := r.Decide(ctx, domain.Request{Policy: domain.DefaultPolicyName, Key: userID, Cost: 1})
	return d.Allowed(), err
}

// Decide implements ports.Limiter.
func (r *RateLimiter) Decide(ctx context.Context, req domain.Request) (domain.Decision, error) {
	w := r.rounds.Get().(*round)
	defer w.putBack(&r.rounds)
	w.single[0] = req
	r.decide(ctx, w, w.single[:], w.answer[:], false)
	a := w.answer[0]
	w.single[0], w.answer[0] = domain.Request{}, ports.Answer{} // what the caller got stays the caller's
	return a.Decision, a.Err
}

// DecideMany implements ports.Limiter.
func (r *RateLimiter) DecideMany(ctx context.Context, reqs []domain.Request, answers []ports.Answer) {
	w := r.rounds.Get().(*round)
	defer w.putBack(&r.rounds)
	r.decide(ctx, w, reqs, answers, false)
}

// DecideTogether implements ports.Limiter.
func (r *RateLimiter) DecideTogether(ctx context.Context, reqs []domain.Request, answers []ports.Answer) {
	w := r.rounds.Get().(*round)
	defer w.putBack(&r.rounds)
	r.decide(ctx, w, reqs, answers, true)
}

func (r *RateLimiter) decide(ctx context.Context, w *round, reqs []domain.Request, answers []ports.Answer, together bool) {
	open := true // none has been refused so far
	for i := range reqs {
		a := &answers[i]
		*a = ports.Answer{Decision: domain.Decision{Limits: a.Decision.Limits[:0]}}
		if !r.plan(w, i, &reqs[i], a) && (a.Err != nil || !a.Decision.Allowed()) {
			open = false
		}
	}
	if len(w.takes) == 0 {
		return
	}
	w.resultsFor(len(w.takes))
	if w.linked || together {
		r.takeLinked(ctx, w, reqs, answers, together, open)
	} else {
		r.store.TakeMany(ctx, w.takes, w.results)
		for j := range w.plans {
			r.settle(ctx, w, &w.plans[j], &answers[w.plans[j].index])
		}
	}
	for j := range w.plans {
		r.conclude(w, &reqs[w.plans[j].index], &w.plans[j], &answers[w.plans[j].index])
	}
}

// conclude turns what became of a plan's takes into the answer.
func (r *RateLimiter) conclude(w *round, req *domain.Request, p *plan, a *ports.Answer) {
	d := &a.Decision
	if a.Err != nil {
		*d = domain.Decision{Limits: d.Limits[:0]}
		return
	}
	p.describe(d)
	w.describe(p, d)
	if req.Op == domain.OpTake && p.cost > 0 {
		r.observer.Decided(req, d)
	}
}
