package ports

import (
	"context"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// BucketStore keeps buckets and decides about them, each group in one atomic step. It knows no policies: limits
// come with the request, by value. Implementations are safe for concurrent use.
type BucketStore interface {
	// TakeMany decides reqs[i] into results[i], for every i. Each is one atomic step by the store's own clock;
	// equal keys are decided in the order given, each seeing what those before it did. A denial is a result, never
	// an error.
	//
	// results must be as long as reqs; each slot's Buckets is overwritten, reusing its memory, so that a caller
	// who keeps the slots allocates nothing. When TakeMany returns, every slot holds either a decision or an Err
	// that wraps a sentinel of this package; nothing is written to the slots afterwards. When ctx ends first, the
	// slots that were not decided hold an error that wraps both ErrUnavailable and the context's: whether those
	// were carried out is not known.
	TakeMany(ctx context.Context, reqs []TakeRequest, results []TakeResult)
}

// TakeRequest is one operation on one bucket group.
type TakeRequest struct {
	Op domain.Op
	// Key names the group.
	Key domain.BucketKey
	// Limits are the group's, 1 to domain.MaxLimits, with distinct names. They are read only, and may be shared.
	Limits []domain.Limit
	// Cost in tokens; see domain.Op.CheckCost. Ignored by peek and reset.
	Cost domain.Tokens
}

// Check returns an error that wraps ErrInvalidTake if the request cannot be carried out.
func (r *TakeRequest) Check() error {
	switch {
	case r.Key == "":
		return invalidTake("the key is empty")
	case len(r.Limits) == 0 || len(r.Limits) > domain.MaxLimits:
		return invalidTake("the number of limits is out of range")
	case r.Op > domain.OpReset:
		return invalidTake("unknown operation")
	}
	for i := range r.Limits {
		if r.Limits[i].IsZero() {
			return invalidTake("a limit is zero")
		}
		for j := range i {
			if r.Limits[j].Name() == r.Limits[i].Name() {
				return invalidTake("two limits have one name")
			}
		}
	}
	if r.Op == domain.OpPeek || r.Op == domain.OpReset {
		return nil
	}
	if err := r.Op.CheckCost(r.Cost); err != nil {
		return invalidTake(err.Error())
	}
	return nil
}

// TakeResult is the answer to a TakeRequest.
type TakeResult struct {
	// Err is nil if there is a decision. The other fields then mean nothing.
	Err error
	// Verdict of the group. DebtExceeded answers a charge alone.
	Verdict domain.Verdict
	// Now is the store's time of the decision.
	Now domain.Instant
	// Store says which store decided.
	Store domain.StoreName
	// Buckets is the state of each limit at Now, after the operation, in the order of the request's limits.
	Buckets []domain.Bucket
}

// Take is TakeMany of one request.
func Take(ctx context.Context, s BucketStore, req TakeRequest) TakeResult {
	reqs, results := [1]TakeRequest{req}, [1]TakeResult{}
	s.TakeMany(ctx, reqs[:], results[:])
	return results[0]
}
