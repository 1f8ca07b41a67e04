// Package ports holds the interfaces between the core and its adapters, and the errors that cross them.
//
// Inbound adapters call a [Limiter]. Outbound adapters implement [BucketStore], [PolicySource] and [Observer]. Package
// porttest has the contract of a BucketStore as a test that every store passes.
package ports

import (
	"context"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// Limiter decides whether requests may pass. Inbound adapters call it. Implementations are safe for concurrent use.
type Limiter interface {
	// Decide finds the policy of a request and decides by it. If the store fails, the failure mode of the policy decides
	// and there is no error. An error means that there is no decision. It wraps domain.ErrInvalidRequest (as a
	// *domain.FieldError that names the field), ErrUnknownPolicy, domain.ErrDebtExceeded, ErrCannotHold, or the error that the
	// request's Lookup returned; then nothing was spent. If ctx is cancelled while the store is asked, the error wraps
	// context.Canceled and ErrUnavailable, and the tokens may have been taken. A request with Hold sleeps until its
	// Decision.Wait is over; if ctx ends before, or the request's BeforeWait fails, the error is that one, the tokens stay spent, and no
	// permit is held. Refunds and charges have no failure mode: if the store fails, the error wraps an error of [BucketStore]. They may have
	// been carried out if it is ErrUnavailable.
	Decide(ctx context.Context, req policy.Request) (decision.Decision, error)

	// DecideMany decides reqs[i] as Decide does, and writes the answer to answers[i]. The requests share round trips.
	// answers must be as long as reqs. Requests for the same bucket are decided in the order given. DecideMany reuses the
	// memory of each slot's Decision.Limits, so a caller that keeps the slots allocates nothing.
	DecideMany(ctx context.Context, reqs []policy.Request, answers []Answer)

	// DecideAtomic is DecideMany for requests that must all pass, or else spend nothing: if one may not pass, the tokens of
	// the others are refunded, once. Each answer is the verdict of its own request, and after a refund its levels are those
	// without the cost. If a request is invalid, the store is not asked: the requests that need it have the error of the first
	// that is invalid, and those that are blocked or exempt keep their decisions. reqs may have takes and peeks only. Until
	// the refund arrives, the tokens are missing for other callers, who may be denied; no caller gets more than the limits
	// allow.
	DecideAtomic(ctx context.Context, reqs []policy.Request, answers []Answer)
}

// Permits ends and renews what a Limiter granted under limits of domain.KindConcurrency. Implementations are safe for concurrent use.
type Permits interface {
	// Release ends a permit: the text of a Decision. If cost is at least 0, that is what the request cost in the end: the
	// difference to what was taken is charged or refunded, once. released is false if the permit had ended before, or held
	// nothing; then nothing is settled. It may be called again after any error. An error wraps domain.ErrInvalidRequest, or
	// an error of [BucketStore], in every failure mode.
	Release(ctx context.Context, permit string, cost domain.Tokens) (released bool, err error)

	// Renew gives a permit a new lease from now, and returns it. The error wraps ErrPermitEnded, domain.ErrInvalidRequest, or an
	// error of [BucketStore], in every failure mode.
	Renew(ctx context.Context, permit string) (lease time.Duration, err error)

	// End is Release for a permit of a Request with Hold. It waits for the store once, as a decision does, so that the holder's next
	// request finds the permit free; if the store fails, the permit ends in the background. It does nothing if permit is "".
	End(permit string, cost domain.Tokens)
}

// Unsettled is the cost of a Release that settles nothing.
const Unsettled domain.Tokens = -1

// Answer holds what Decide returns.
type Answer struct {
	Decision decision.Decision
	Err      error
}

// PolicySource holds the policies in force, all of them compiled, and the limits that they share. A policy that it returns is
// immutable, and stays valid when others come into force. Implementations are safe for concurrent use.
type PolicySource interface {
	// Named returns the policy of that name, or an error that wraps ErrUnknownPolicy.
	Named(name string) (*policy.Policy, error)
	// Shared returns the shared limit of that name, or an error that wraps ErrUnknownPolicy.
	Shared(name string) (*policy.Shared, error)
	// Match returns the first policy that applies to the request's method, host, path and headers, or to its domain and
	// descriptor if it has a Domain. It returns nil if no policy applies; the request is then not limited. The error is that of
	// the request's Lookup, for a header on which the result depends.
	Match(req *policy.Request) (*policy.Policy, error)
}

// Observer receives decisions and failures, for logs and metrics. It must not block. The pointers are valid during the call
// only, so it must copy what it keeps. Implementations are safe for concurrent use.
type Observer interface {
	// Decided is called once for each decision that took tokens or tried to. It is not called for other operations.
	Decided(req *policy.Request, d *decision.Decision)
	// StoreFailed is called before Decided, once for each decision that the store failed to make. mode is the failure mode
	// that decided. It is empty for what has none: refunds, charges, releases and renewals, whose caller got the error. For a
	// request with Hold it is called when a renewal or a release first fails, and when a release is given up.
	StoreFailed(policyName string, mode policy.FailureMode, cause error)
}

// HoldObserver is an Observer that also learns what requests with Hold do, and what could not be settled.
type HoldObserver interface {
	Observer
	// Waiting is called when the number of requests that wait in this process changes by change.
	Waiting(policyName string, change int)
	// Waited is called when a request need not wait any more.
	Waited(policyName string, outcome WaitOutcome)
	// PermitsHeld is called when the number of permits that this process holds by Request.Hold changes by change.
	PermitsHeld(policyName string, change int)
	// PermitExpired is called when such a permit has ended although it is in use.
	PermitExpired(policyName string)
	// DebtReached is called when a request cost more than its limits of one key can owe. They now owe the most that they can, and
	// what is beyond is not charged.
	DebtReached(policyName string)
}

// CostObserver learns what requests cost whose policies say where answers report their cost; see policy.Cost. It is as an Observer.
// Inbound adapters call it when they have settled a request.
type CostObserver interface {
	// Settled is called once for each request. estimate was taken before it, and actual is what it has cost. missing says that the
	// answer should have reported the cost, and did not.
	Settled(policyName string, estimate, actual domain.Tokens, missing bool)
}

// WaitOutcome is what became of a request that had to wait.
type WaitOutcome string

// The outcomes.
const (
	WaitServed WaitOutcome = "served" // it waited until its turn
	WaitLeft   WaitOutcome = "left"   // its caller left before; the tokens stay spent
	WaitFull   WaitOutcome = "full"   // it was denied at once, because too many were waiting
)
