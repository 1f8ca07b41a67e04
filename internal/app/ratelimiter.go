package app

import (
	"context"
	"errors"
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
	return w.answer[0].Decision, w.answer[0].Err
}

// DecideMany implements ports.Limiter.
func (r *RateLimiter) DecideMany(ctx context.Context, reqs []domain.Request, answers []ports.Answer) {
	w := r.rounds.Get().(*round)
	defer w.putBack(&r.rounds)
	r.decide(ctx, w, reqs, answers)
}

func (r *RateLimiter) decide(ctx context.Context, w *round, reqs []domain.Request, answers []ports.Answer) {
	for i := range reqs {
		answers[i] = ports.Answer{}
		p, err := r.plan(&reqs[i])
		switch {
		case err != nil:
			answers[i].Err = err
		case p.policy == nil:
			answers[i].Decision = domain.Decision{Outcome: domain.OutcomeAllowed}
		default:
			w.add(i, p, &reqs[i])
		}
	}
	if len(w.takes) == 0 {
		return
	}
	results := w.resultsFor(len(w.takes))
	r.store.TakeMany(ctx, w.takes, results)
	for j := range w.takes {
		i := w.plans[j].index
		answers[i] = r.conclude(ctx, &reqs[i], &w.plans[j].plan, &w.takes[j], &results[j])
	}
}

// plan is what a request comes to before any store is asked.
type plan struct {
	policy     *domain.Policy // nil: no policy applies
	key        domain.BucketKey
	client     string
	keyMissing bool
}

func (r *RateLimiter) plan(req *domain.Request) (plan, error) {
	if req.Op != domain.OpPeek && req.Op != domain.OpReset {
		if err := req.Op.CheckCost(req.Cost); err != nil {
			return plan{}, err
		}
	}
	p := plan{policy: r.policies.Match(req)}
	if req.Policy != "" {
		var err error
		if p.policy, err = r.policies.Named(req.Policy); err != nil {
			return plan{}, err
		}
	}
	if p.policy == nil {
		return p, nil
	}
	source, value, err := clientOf(req, p.policy.Key)
	if err != nil {
		return plan{}, err
	}
	p.key = domain.NewBucketKey(p.policy.Name, source, value)
	p.client = value
	p.keyMissing = source != p.policy.Key
	return p, nil
}

// conclude turns the store's result into the answer.
func (r *RateLimiter) conclude(ctx context.Context, req *domain.Request, p *plan, take *ports.TakeRequest,
	result *ports.TakeResult,
) ports.Answer {
	d := domain.Decision{Policy: p.policy.Name, Client: p.client, KeyMissing: p.keyMissing}
	err := result.Err
	if err != nil {
		err = r.fail(ctx, p.policy, take, result.Err, &d)
	} else {
		describe(&d, take, result)
		if result.Verdict == domain.DebtExceeded {
			err = domain.ErrDebtExceeded
		}
	}
	if err != nil {
		return ports.Answer{Err: err}
	}
	if take.Op == domain.OpTake && take.Cost > 0 {
		r.observer.Decided(req, &d)
	}
	return ports.Answer{Decision: d}
}

// describe fills in a decision that a store made.
func describe(d *domain.Decision, take *ports.TakeRequest, result *ports.TakeResult) {
	allowed := result.Verdict == domain.Allowed
	d.Outcome = domain.OutcomeDenied
	if allowed {
		d.Outcome = domain.OutcomeAllowed
	}
	d.Store = result.Store
	d.LevelKnown = true
	d.Limits = make([]domain.LimitStatus, len(take.Limits))
	for i := range take.Limits {
		d.Limits[i] = take.Limits[i].Status(result.Buckets[i], result.Now, take.Cost, allowed)
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
	d.Limits = make([]domain.LimitStatus, len(take.Limits))
	for i := range take.Limits {
		d.Limits[i] = take.Limits[i].UnknownStatus(mode == domain.FailOpen)
	}
	return nil
}
