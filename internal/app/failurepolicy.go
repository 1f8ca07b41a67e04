package app

import (
	"context"
	"errors"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// applyFailurePolicy decides what take i of a request means, which failed, by the failure mode of its policy. It reports
// the request's first failure to the observer.
func (r *RateLimiter) applyFailurePolicy(ctx context.Context, b *batchState, q *resolved, i int) {
	cause := b.results[i].Err
	mode, state, ofStore := failureState(ctx, q, cause)
	b.states[i] = state
	if state == takeError {
		q.answer.Err = cause
	}
	if ofStore && !q.failed {
		q.failed = true
		r.observer.StoreFailed(q.policy.Name, mode, cause)
	}
	if state == takeLocal {
		// The store may have used up the caller's deadline, so that does not count here.
		if b.results[i] = ports.Take(context.WithoutCancel(ctx), r.local, b.takes[i]); b.results[i].Err != nil {
			b.states[i] = takeFailedClosed
		}
	}
}

// failureState returns the failure mode that applies to a failed take, and what becomes of the take. The mode is empty for
// operations that have none. ofStore is false if the cause says nothing about the store.
func failureState(ctx context.Context, q *resolved, cause error) (mode policy.FailureMode, state takeState, ofStore bool) {
	if errors.Is(cause, ports.ErrInvalidTake) || errors.Is(cause, context.Canceled) && ctx.Err() != nil {
		return "", takeError, false // the take is wrong, or the caller has cancelled
	}
	if q.req.Op != domain.OpTake && q.req.Op != domain.OpPeek {
		return "", takeError, true // refunds and charges are done, or the caller gets the error
	}
	mode = q.policy.OnStoreFailure
	if mode == policy.FailOpen && errors.Is(cause, ports.ErrOverloaded) {
		// Overload must not disable limiting: else a flood of requests would let itself pass.
		mode = policy.FailLocal
	}
	switch mode {
	case policy.FailOpen:
		return mode, takeFailedOpen, true
	case policy.FailLocal:
		return mode, takeLocal, true
	default:
		return mode, takeFailedClosed, true
	}
}
