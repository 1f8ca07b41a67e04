package ports

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// BucketStore keeps buckets and decides takes. It decides each bucket group in one atomic step. It knows no policies: a
// request brings its limits, by value. Implementations are safe for concurrent use.
type BucketStore interface {
	// TakeMany decides reqs[i] and writes the answer to results[i], for every i. Each request is one atomic step, by the
	// store's own clock. Requests with equal keys are decided in the order given, and each sees what the earlier ones did.
	// A denial is a result, never an error.
	//
	// results must be as long as reqs. TakeMany overwrites every slot and reuses the memory of its States, so a caller that
	// keeps the slots allocates nothing. When TakeMany returns, every slot holds a decision, or an Err that wraps an error
	// of this package, and nothing is written to the slots any more. If ctx ends first, the slots without a decision hold
	// an error that wraps both ErrUnavailable and the context's error; their requests may or may not have been carried out.
	TakeMany(ctx context.Context, reqs []TakeRequest, results []TakeResult)
}

// TakeRequest is one operation on one bucket group.
type TakeRequest struct {
	Op domain.Op
	// Key names the group.
	Key clientkey.BucketKey
	// Limits of the group, from 1 to policy.MaxLimits, with distinct names. The store only reads them; they may be shared.
	Limits []domain.Limit
	// Cost, TakenAt, MaxWait and Permit are those of the domain.Operation. A take of a limit of domain.KindConcurrency needs a
	// Permit that no other take has; an undo, a release and a renewal need that of their take.
	Cost    domain.Tokens
	TakenAt domain.Instant
	MaxWait time.Duration
	Permit  string
}

// Operation is what the request does to its group.
func (r *TakeRequest) Operation() domain.Operation {
	return domain.Operation{Op: r.Op, Cost: r.Cost, TakenAt: r.TakenAt, MaxWait: r.MaxWait, Permit: r.Permit}
}

// Check returns an error that wraps ErrInvalidTake if the request cannot be carried out.
func (r *TakeRequest) Check() error {
	switch {
	case r.Key == "":
		return invalidTake("the key is empty")
	case len(r.Limits) == 0 || len(r.Limits) > policy.MaxLimits:
		return invalidTake("the number of limits is out of range")
	case r.Op > domain.OpSettle:
		return invalidTake("unknown operation")
	case r.TakenAt < 0:
		return invalidTake("the time of the take is negative")
	case r.MaxWait < 0 || r.MaxWait > policy.MaxMaxWait:
		return invalidTake("the time to wait is out of range")
	}
	permits := false
	for i := range r.Limits {
		if r.Limits[i].IsZero() {
			return invalidTake("a limit is zero")
		}
		permits = permits || r.Limits[i].Kind() == domain.KindConcurrency
		for j := range i {
			if r.Limits[j].Name() == r.Limits[i].Name() {
				return invalidTake("two limits have one name")
			}
		}
	}
	if permits && r.Op.NeedsPermit(r.Cost) && !domain.ValidPermitID(r.Permit) {
		return invalidTake("the permit has no valid ID")
	}
	if err := r.Op.CheckCost(r.Cost); err != nil {
		return invalidTake(err.Error())
	}
	return nil
}

// TakeResult is the answer to a TakeRequest.
type TakeResult struct {
	// Err is nil if there is a decision. If it is not nil, the other fields mean nothing.
	Err error
	// Verdict of the group. It is DebtExceeded for charges only.
	Verdict domain.Verdict
	// Now is the store's time of the decision.
	Now domain.Instant
	// Store says which store decided.
	Store decision.StoreName
	// States are those of the request's limits at Now, after the operation, in the order of the limits.
	States []domain.State
	// Permits, by limit as States, are those held, as domain.Permits.List returns them. Only domain.OpList sets them; those of
	// other limits are empty.
	Permits [][]domain.Permit
}

// Take calls TakeMany with one request.
func Take(ctx context.Context, s BucketStore, req TakeRequest) TakeResult {
	reqs, results := [1]TakeRequest{req}, [1]TakeResult{}
	s.TakeMany(ctx, reqs[:], results[:])
	return results[0]
}

var (
	// ErrUnavailable means that the store could not be reached, did not answer in time, or sent an unreadable answer. The
	// operation may or may not have been carried out, so it must not be sent again, unless the error is ErrNotRun, too.
	ErrUnavailable = errors.New("store unavailable")
	// ErrNotRun is wrapped beside ErrUnavailable, or ErrOverloaded, if certainly nothing was carried out. A store need not say so.
	ErrNotRun = errors.New("not carried out")
	// ErrOverloaded means that this process refused the operation because too many are waiting for the store, or because the
	// memory store has no room for another permit. The operation was not carried out. The store itself may be healthy.
	ErrOverloaded = errors.New("too much is waiting for the store")
	// ErrCorrupt means that the store holds something else than a bucket group under the key. Nothing was carried out.
	ErrCorrupt = errors.New("stored bucket is not readable")
	// ErrInvalidTake means that the request is wrong: an empty key, no limits, a zero limit, or a cost out of range. Nothing
	// was carried out.
	ErrInvalidTake = errors.New("invalid take")
	// ErrPermitEnded means that the permit is not held any more: it was released, or its lease is over.
	ErrPermitEnded = errors.New("the permit has ended")
	// ErrCannotHold means that the policy has a concurrency limit, and that the caller cannot tell when a request ends.
	ErrCannotHold = errors.New("the policy has a concurrency limit, and the end of the request is not known here")
	// ErrUnknownPolicy means that no policy has the name asked for.
	ErrUnknownPolicy = errors.New("unknown policy")
)

func invalidTake(reason string) error { return fmt.Errorf("%w: %s", ErrInvalidTake, reason) }
