package app

import (
	"context"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// DefaultMaxWaiting is how many requests with Hold may wait at once in a process, unless LimitWaiting says otherwise.
const DefaultMaxWaiting = 10_000

// maxWait returns how long a take may wait. A request with Hold that may wait has a place among those that wait from now on,
// until leaveQueue or await gives it back.
func (r *RateLimiter) maxWait(q *resolved) time.Duration {
	wait := min(q.req.MaxWait, q.policy.MaxWait)
	if wait <= 0 || q.policy.Mode == policy.ModeShadow || q.req.Op != domain.OpTake {
		return 0
	}
	if q.req.Hold {
		if r.waiting.Add(1) > r.maxWaiting {
			r.waiting.Add(-1)
			q.full = true
			return 0
		}
		q.queued = true
	}
	return wait
}

// leaveQueue gives the place of a request back that need not wait, and reports a denial that there was no place.
func (r *RateLimiter) leaveQueue(q *resolved) {
	a := q.answer
	if q.queued && (a.Err != nil || a.Decision.Wait == 0) {
		r.waiting.Add(-1)
	}
	if q.full && a.Err == nil && a.Decision.Outcome == decision.OutcomeDenied {
		r.holds.Waited(q.policy.Name, ports.WaitFull)
	}
}

// await sleeps until the wait of every request with Hold is over. If the caller leaves before, their permits are released, and
// the answers are the error of ctx, or that of BeforeWait.
func (r *RateLimiter) await(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	longest := time.Duration(0)
	for i := range answers {
		if reqs[i].Hold {
			longest = max(longest, answers[i].Decision.Wait)
		}
	}
	if longest == 0 {
		return
	}
	turn := time.NewTimer(longest)
	defer turn.Stop()
	var err error
	r.eachWaiting(reqs, answers, func(q *policy.Request, policyName string) {
		r.holds.Waiting(policyName, 1)
		if q.BeforeWait != nil && err == nil {
			err = q.BeforeWait()
		}
	})
	if err == nil {
		err = until(ctx, turn.C)
	}
	outcome := ports.WaitServed
	if err != nil {
		outcome = ports.WaitLeft
	}
	r.eachWaiting(reqs, answers, func(_ *policy.Request, policyName string) {
		r.waiting.Add(-1)
		r.holds.Waiting(policyName, -1)
		r.holds.Waited(policyName, outcome)
	})
	if err == nil {
		return
	}
	for i := range answers {
		if a := &answers[i]; reqs[i].Hold && a.Err == nil {
			r.End(a.Decision.Permit, ports.Unsettled)
			*a = ports.Answer{Decision: decision.Decision{Limits: a.Decision.Limits[:0]}, Err: err}
		}
	}
}

func (r *RateLimiter) eachWaiting(reqs []policy.Request, answers []ports.Answer, do func(q *policy.Request, policyName string)) {
	for i := range answers {
		if reqs[i].Hold && answers[i].Decision.Wait > 0 {
			do(&reqs[i], answers[i].Decision.Policy)
		}
	}
}

// until returns the error of ctx if that ends before the time has come.
func until(ctx context.Context, turn <-chan time.Time) error {
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
