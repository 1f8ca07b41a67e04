// Package app decides requests: it finds the policy of a request, asks the store, applies the policy's failure mode if the
// store fails, and describes the decision. It knows neither HTTP nor Redis.
package app

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// RateLimiter decides requests by the policies of a source and the buckets of a store. Of its own it keeps the permits of requests
// with Hold, and the number of requests that wait. It is safe for concurrent use. Close it after use.
type RateLimiter struct {
	store    ports.BucketStore
	denials  knownDenials      // store, if it implements the interface; else nil
	local    ports.BucketStore // in this process
	policies ports.PolicySource
	observer ports.Observer
	holds    ports.HoldObserver // observer, or one that does nothing
	batches  sync.Pool          // of *batchState

	overrides ports.OverrideStore // at run time; nil: none
	table     *override.Table     // that of overrides
	unfit     func(policyName, client string, reason error)
	unfitSeen unfitCounts

	node       string           // names this process in the texts of permits
	now        func() time.Time // for the IDs of permits, which operators read
	started    time.Time
	keeper     keeper
	maxWaiting int64
	waiting    atomic.Int64 // requests with Hold that wait, or that may have to
}

var (
	_ ports.Limiter   = (*RateLimiter)(nil)
	_ ports.Permits   = (*RateLimiter)(nil)
	_ ports.Inspector = (*RateLimiter)(nil)
	_ ports.Overrides = (*RateLimiter)(nil)
)

// knownDenials is a store that can say that a take would be denied without trying it, as the Cache of package denialcache does.
type knownDenials interface {
	Now() time.Duration
	KnownDenied(req *ports.TakeRequest, result *ports.TakeResult, now time.Duration) bool
	// TakeUnknown is TakeMany for takes and peeks that KnownDenied did not answer at now.
	TakeUnknown(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult, now time.Duration)
}

// NewRateLimiter returns a limiter that takes from store. The store local must be another one, in this process: it decides
// for the failure mode local, and while this process is overloaded. The observer may be a ports.HoldObserver.
func NewRateLimiter(store, local ports.BucketStore, policies ports.PolicySource, observer ports.Observer) *RateLimiter {
	r := &RateLimiter{
		store: store, local: local, policies: policies, observer: observer,
		batches: sync.Pool{New: func() any { return new(batchState) }},
		node:    newRandom(), maxWaiting: DefaultMaxWaiting,
		now: time.Now, //nolint:forbidigo // no decision depends on it: see the field, and keeper
	}
	r.keeper.limiter, r.keeper.maxEnding, r.started = r, defaultMaxEnding, r.now()
	r.denials, _ = store.(knownDenials)
	holds, ok := observer.(ports.HoldObserver)
	if !ok {
		holds = noHolds{observer}
	}
	r.holds = holds
	return r
}

// LimitWaiting sets how many requests with Hold may wait at once, instead of DefaultMaxWaiting. Those beyond it are denied. Call it
// before the first request.
func (r *RateLimiter) LimitWaiting(most int) { r.maxWaiting = int64(most) }

// Close releases the permits of requests with Hold, and waits for that until ctx ends. The error says how many are left to end
// with their leases. Call it after the last request, and before the store is closed.
func (r *RateLimiter) Close(ctx context.Context) error { return r.keeper.close(ctx) }

// clock is the time since the limiter was made. It is monotonic.
func (r *RateLimiter) clock() time.Duration { return r.now().Sub(r.started) }

// noHolds is a HoldObserver that is not interested in holds.
type noHolds struct{ ports.Observer }

func (noHolds) Waiting(string, int)              {}
func (noHolds) Waited(string, ports.WaitOutcome) {}
func (noHolds) PermitsHeld(string, int)          {}
func (noHolds) PermitExpired(string)             {}
func (noHolds) DebtReached(string)               {}

// Allow takes one token for a user under the default policy. If the store fails, it returns what the policy's failure mode
// says and no error; the observer gets the cause. An error means that there is no decision: userID is empty, or ctx was
// cancelled. A call that is cancelled while it waits for the store may have taken the token.
func (r *RateLimiter) Allow(ctx context.Context, userID string) (bool, error) {
	if userID == "" {
		return false, &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "userID", Reason: "must not be empty"}
	}
	d, err := r.Decide(ctx, policy.Request{Policy: policy.DefaultName, Key: userID, Cost: 1})
	return d.Allowed(), err
}

// Decide implements ports.Limiter.
func (r *RateLimiter) Decide(ctx context.Context, req policy.Request) (decision.Decision, error) {
	b := r.batches.Get().(*batchState)
	b.request[0] = req
	r.decide(ctx, b, b.request[:], b.answer[:], false)
	r.await(ctx, b.request[:], b.answer[:])
	a := b.answer[0]
	b.request[0], b.answer[0] = policy.Request{}, ports.Answer{} // the caller owns the answer's memory now
	b.putBack(&r.batches)
	return a.Decision, a.Err
}

// DecideMany implements ports.Limiter.
func (r *RateLimiter) DecideMany(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	b := r.batches.Get().(*batchState)
	r.decide(ctx, b, reqs, answers, false)
	b.putBack(&r.batches)
	r.await(ctx, reqs, answers)
}

// DecideAtomic implements ports.Limiter.
func (r *RateLimiter) DecideAtomic(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	b := r.batches.Get().(*batchState)
	r.decide(ctx, b, reqs, answers, true)
	b.putBack(&r.batches)
	r.await(ctx, reqs, answers)
}

// decide answers reqs[i] in answers[i]. If atomic is set, all requests pass or none spends anything.
func (r *RateLimiter) decide(ctx context.Context, b *batchState, reqs []policy.Request, answers []ports.Answer, atomic bool) {
	pass := true // no request has been refused so far
	var failed error
	for i := range reqs {
		a := &answers[i]
		*a = ports.Answer{Decision: decision.Decision{Limits: a.Decision.Limits[:0]}}
		if !r.resolve(b, &reqs[i], a) && (a.Err != nil || !a.Decision.Allowed()) {
			pass, failed = false, cmp.Or(failed, a.Err)
		}
	}
	if len(b.takes) == 0 {
		return
	}
	if atomic && failed != nil { // what is not taken need not be refunded, which could fail
		for j := range b.resolved {
			a := b.resolved[j].answer
			a.Err = failed
			r.leaveQueue(&b.resolved[j])
			*a = ports.Answer{Decision: decision.Decision{Limits: a.Decision.Limits[:0]}, Err: failed}
		}
		return
	}
	b.growResults(len(b.takes))
	several := b.multiKey || atomic // several takes pass together or not at all
	switch local := r.askLocal(ctx, b); {
	case several || local:
		r.askForSeveral(ctx, b, atomic)
	default:
		r.store.TakeMany(ctx, b.takes, b.results)
	}
	for j := range b.resolved {
		r.checkResults(ctx, b, &b.resolved[j])
	}
	if several {
		r.undoPartial(ctx, b, atomic, pass)
	}
	for j := range b.resolved {
		q := &b.resolved[j]
		if a := q.answer; a.Err != nil {
			a.Decision = decision.Decision{Limits: a.Decision.Limits[:0]}
		} else {
			b.completeDecision(q)
			r.grant(b, q)
			r.observe(q.req, &a.Decision)
		}
		r.leaveQueue(q)
	}
}

// askLocal has the store of this process carry out the requests with Local, and reports whether there are any. If that fails, which it
// does for takes that are invalid alone, the request has the error.
func (r *RateLimiter) askLocal(ctx context.Context, b *batchState) (asked bool) {
	for j := range b.resolved {
		q := &b.resolved[j]
		for i := q.first; i < q.end && q.req.Local; i++ {
			asked = true
			if b.results[i] = ports.Take(context.WithoutCancel(ctx), r.local, b.takes[i]); b.results[i].Err != nil {
				b.states[i], q.answer.Err = takeError, b.results[i].Err
			} else {
				b.states[i] = takeLocal
			}
		}
	}
	return asked
}

// checkResults looks for takes of a request that the store did not decide, and decides those that it only peeked at. It reports debts.
func (r *RateLimiter) checkResults(ctx context.Context, b *batchState, q *resolved) {
	for i := q.first; i < q.end; i++ {
		if debtReached(&b.takes[i], &b.results[i]) {
			r.holds.DebtReached(q.policy.Name)
		}
		switch {
		case b.states[i] != takeAsked:
		case b.results[i].Err != nil:
			r.lost(&b.takes[i], b.results[i].Err)
			r.applyFailurePolicy(ctx, b, q, i)
		case b.results[i].Verdict == domain.DebtExceeded:
			q.answer.Err = domain.ErrDebtExceeded
		}
		b.decidePeek(q, i)
	}
}
