package ports

import (
	"context"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Limiter answers the question that Velocity exists for. Inbound adapters call it. Safe for concurrent use.
type Limiter interface {
	// Decide finds the policy of a request and decides. The failure of the store is no error: the policy says what
	// the decision is then. An error means that nothing was decided and nothing spent; it wraps
	// domain.ErrInvalidRequest (with a *domain.FieldError that names the field), ErrUnknownPolicy,
	// domain.ErrDebtExceeded, or what the request's Lookup returned. Refunds, charges and resets have no failure
	// policy: when the store fails, ErrUnavailable says so, and they may or may not have been carried out.
	Decide(ctx context.Context, req domain.Request) (domain.Decision, error)

	// DecideMany decides reqs[i] into answers[i], as Decide does, sharing round trips. answers must be as long as
	// reqs. Requests for the same bucket are decided in the order given. The memory of each slot's Decision.Limits is
	// used again, so that a caller who keeps the slots allocates nothing.
	DecideMany(ctx context.Context, reqs []domain.Request, answers []Answer)

	// DecideTogether is DecideMany for requests of which all are to pass or none is to spend anything: when one may not
	// pass, what the others took is given back, once. Each answer is the verdict of its own request: of those given back
	// too, whose levels are then without the cost. Only takes and peeks may be decided together. Meanwhile the tokens are
	// missing for others, who may be denied; nobody ever gets more than the limits allow.
	DecideTogether(ctx context.Context, reqs []domain.Request, answers []Answer)
}

// Answer is what Decide returns, as a value.
type Answer struct {
	Decision domain.Decision
	Err      error
}
