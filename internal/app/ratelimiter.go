package app

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// RateLimiter decides requests by the policies of a source and the buckets of a store. It keeps no state of its
// own. Safe for concurrent use.
type RateLimiter struct {
	store    ports.BucketStore
	local    ports.BucketStore
	policies ports.PolicySource
	observer ports.Observer
	rounds   sync.Pool // of *round
}

var (
	_ ports.Limiter   = (*RateLimiter)(nil)
	_ ports.Inspector = (*RateLimiter)(nil)
)

// NewRateLimiter composes a limiter. local is a store in this process: it decides for the failure mode local, and
// when this process is overloaded. It must not be the same as store, or a failure would find the same fault again.
func NewRateLimiter(store, local ports.BucketStore, policies ports.PolicySource, observer ports.Observer) *RateLimiter {
	return &RateLimiter{
		store: store, local: local, policies: policies, observer: observer,
		rounds: sync.Pool{New: func() any { return new(round) }},
	}
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
	r.decide(ctx, w, w.single[:], w.answer[:])
	a := w.answer[0]
	w.single[0], w.answer[0] = domain.Request{}, ports.Answer{} // what the caller got stays the caller's
	return a.Decision, a.Err
}

// DecideMany implements ports.Limiter.
func (r *RateLimiter) DecideMany(ctx context.Context, reqs []domain.Request, answers []ports.Answer) {
	w := r.rounds.Get().(*round)
	defer w.putBack(&r.rounds)
	r.decide(ctx, w, reqs, answers)
}

// DecideTogether implements ports.Limiter.
func (r *RateLimiter) DecideTogether(ctx context.Context, reqs []domain.Request, answers []ports.Answer) {
	r.DecideMany(ctx, reqs, answers)
	if !slices.ContainsFunc(answers, func(a ports.Answer) bool { return a.Err != nil || !a.Decision.Allowed() }) {
		return
	}
	for i := range reqs {
		if a := &answers[i]; a.Err == nil && a.Decision.Outcome == domain.OutcomeAllowed && a.Decision.LevelKnown && a.Decision.Cost > 0 {
			_, _ = r.Decide(ctx, a.Decision.Refund(reqs[i])) // a refund that is lost only denies
		}
	}
}

func (r *RateLimiter) decide(ctx context.Context, w *round, reqs []domain.Request, answers []ports.Answer) {
	for i := range reqs {
		a := &answers[i]
		*a = ports.Answer{Decision: domain.Decision{Limits: a.Decision.Limits[:0]}}
		p := w.nextPlan(i)
		switch err := r.plan(&reqs[i], p); {
		case err != nil:
			a.Err = err
			w.dropPlan()
		case p.policy == nil:
			a.Decision.Outcome = domain.OutcomeAllowed
			w.dropPlan()
		default:
			w.add(p, &reqs[i])
		}
	}
	if len(w.takes) == 0 {
		return
	}
	results := w.resultsFor(len(w.takes))
	r.store.TakeMany(ctx, w.takes, results)
	for j := range w.takes {
		i := w.plans[j].index
		r.conclude(ctx, &reqs[i], &w.plans[j], &w.takes[j], &results[j], &answers[i])
	}
}

// plan finds out what a request comes to before any store is asked.
func (r *RateLimiter) plan(req *domain.Request, p *plan) error {
	if req.Op != domain.OpPeek && req.Op != domain.OpReset {
		if err := req.Op.CheckCost(req.Cost); err != nil {
			return err
		}
	}
	var err error
	if req.Own != nil {
		p.policy = req.Own
	} else if req.Policy == "" {
		p.policy = r.policies.Match(req)
	} else if p.policy, err = r.policies.Named(req.Policy); err != nil {
		return err
	}
	if p.policy == nil {
		return nil
	}
	source, value, err := clientOf(req, p.policy.Key)
	if err != nil {
		return err
	}
	p.key = domain.NewBucketKey(p.policy.Name, source, value)
	p.client = keep(value, p.key)
	p.keyMissing = source != p.policy.OwnKey()[0]
	return nil
}

// conclude turns the store's result into the answer.
func (r *RateLimiter) conclude(ctx context.Context, req *domain.Request, p *plan, take *ports.TakeRequest,
	result *ports.TakeResult, a *ports.Answer,
) {
	d := &a.Decision
	d.By, d.Policy, d.Shadow = p.policy, p.policy.Name, p.policy.Mode == domain.ModeShadow
	d.Client, d.KeyMissing, d.Cost = p.client, p.keyMissing, take.Cost
	if result.Err != nil {
		a.Err = r.fail(ctx, p.policy, take, result.Err, d)
	} else {
		describe(d, take, result)
		if result.Verdict == domain.DebtExceeded {
			a.Err = domain.ErrDebtExceeded
		}
	}
	if a.Err != nil {
		*d = domain.Decision{Limits: d.Limits[:0]}
		return
	}
	if take.Op == domain.OpTake && take.Cost > 0 {
		r.observer.Decided(req, d)
	}
}

// describe fills in a decision that a store made.
func describe(d *domain.Decision, take *ports.TakeRequest, result *ports.TakeResult) {
	allowed := result.Verdict == domain.Allowed
	d.Outcome = domain.OutcomeDenied
	if allowed {
		d.Outcome = domain.OutcomeAllowed
	}
	d.Store = result.Store
	d.LevelKnown, d.At = true, result.Now
	d.Limits = slices.Grow(d.Limits, len(take.Limits))
	for i := range take.Limits {
		d.Limits = append(d.Limits, take.Limits[i].Status(result.Buckets[i], result.Now, take.Cost, allowed))
	}
}

// fail decides what the store's failure means, by the policy's failure mode. Refunds, charges and resets have none:
// to say that they were done would be a lie.
func (r *RateLimiter) fail(ctx context.Context, policy *domain.Policy, take *ports.TakeRequest, cause error,
	d *domain.Decision,
) error {
	switch {
	case errors.Is(cause, ports.ErrInvalidTake):
		return cause
	case errors.Is(cause, context.Canceled) && ctx.Err() != nil:
		return cause // the caller has gone; that says nothing about the store
	}
	mode := policy.OnStoreFailure
	if mode == domain.FailOpen && errors.Is(cause, ports.ErrOverloaded) {
		// Overload is no outage: a flood of ours must not open the gate.
		mode = domain.FailLocal
	}
	r.observer.StoreFailed(policy.Name, mode, cause)
	if take.Op != domain.OpTake && take.Op != domain.OpPeek {
		return cause
	}
	d.Store = domain.StoreFallback
	if mode == domain.FailLocal {
		result := ports.Take(ctx, r.local, *take)
		if result.Err == nil {
			describe(d, take, &result)
			d.Store = domain.StoreFallback
			return nil
		}
		mode = domain.FailClosed // not even our own memory can decide
	}
	d.Outcome = domain.OutcomeUnavailable
	if mode == domain.FailOpen {
		d.Outcome = domain.OutcomeAllowed
	}
	d.Limits = slices.Grow(d.Limits, len(take.Limits))
	for i := range take.Limits {
		d.Limits = append(d.Limits, take.Limits[i].UnknownStatus(mode == domain.FailOpen))
	}
	return nil
}
