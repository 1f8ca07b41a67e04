// Package decision describes the answer to a request, which an adapter shows to the client as header fields.
package decision

import (
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// Outcome is the result of a decision. The zero value is OutcomeDenied.
type Outcome uint8

// The outcomes.
const (
	// OutcomeDenied means that the limit is reached.
	OutcomeDenied Outcome = iota
	// OutcomeAllowed means that the request may pass.
	OutcomeAllowed
	// OutcomeUnavailable means that the store failed and the policy is closed. The request may not pass.
	OutcomeUnavailable
	// OutcomeBlocked means that the policy blocks this client, also in shadow mode. No limit was checked.
	OutcomeBlocked
	// OutcomeExempt means that the policy does not limit this client. No limit was checked.
	OutcomeExempt
)

// String returns the outcome as logs and metrics spell it.
func (o Outcome) String() string {
	switch o {
	case OutcomeAllowed:
		return "allowed"
	case OutcomeUnavailable:
		return "unavailable"
	case OutcomeBlocked:
		return "blocked"
	case OutcomeExempt:
		return "exempt"
	default:
		return "denied"
	}
}

// StoreName names what decided a request.
type StoreName string

// The stores that decide.
const (
	StoreRedis    StoreName = "redis"
	StoreMemory   StoreName = "memory"
	StoreShortcut StoreName = "shortcut" // the denial cache
	StoreFallback StoreName = "fallback" // the failure policy
	StorePolicy   StoreName = "policy"   // no store: the client is blocked or exempt
)

// Decision is the answer to a [policy.Request].
type Decision struct {
	// Outcome is the verdict of the limits. In shadow mode it is not enforced.
	Outcome Outcome
	// Shadow says that the policy is in shadow mode: the request may pass with every Outcome but OutcomeBlocked.
	Shadow bool
	// Policy is the name of the policy that applied.
	Policy string
	// Client is the full value of the policy's key. It may be personal data: never put it into metrics or answers.
	Client string
	// UsedFallbackKey reports that the request had no value for the policy's key, for a part of it or for the key of one
	// of the limits, so that the client's address was used instead.
	UsedFallbackKey bool
	// ClientIsAddress reports that Client is the client's address because the request had no value for the key.
	ClientIsAddress bool
	// Cost of the request, in tokens.
	Cost domain.Tokens
	// Taken reports that the store took the cost, or that the store of this process did all of it, by the failure mode local: it can be
	// given back, or settled. It is false if nothing was taken, or if the store failed for some of the limits or let the request pass.
	Taken bool
	// Local says that the store of this process took the cost.
	Local bool
	// RefundOn are the statuses of the upstream's answer after which the adapter returns the tokens, by sending the
	// result of [Decision.Refund]. Empty if Taken is false.
	RefundOn policy.StatusSet
	// Store names what decided.
	Store StoreName
	// At is the time of the decision by the clock of the store that decided: the earliest, if several did. That may be the store
	// of this process, if the failure mode is local. 0 if LevelKnown is false.
	At domain.Instant
	// LevelKnown is false if the failure policy open or closed decided about all limits: then no level is known.
	LevelKnown bool
	// Wait is how long the request must wait before it goes on; 0 unless it was allowed to wait.
	Wait time.Duration
	// Permit is the text by which the caller ends or renews the permit that the request holds; "" if it holds none. Lease is the
	// time for which it is valid from the decision.
	Permit string
	Lease  time.Duration
	// PermitID is the ID that the permit has in the stores.
	PermitID string
	// Limits has one entry for each limit of the policy, in its order. Empty if the client is blocked or exempt.
	Limits []domain.LimitStatus
	// AppliedPolicy is the policy that applied, or nil.
	AppliedPolicy *policy.Policy
	// Override is the one of the policy's overrides that applied, or nil.
	Override *policy.Override
	// IgnoredHeader is the name of a header that conditions of overrides or the cost ask for, and that was ignored since the request was not
	// Trusted. "" if there was none.
	IgnoredHeader string
}

// Allowed reports whether the request may pass.
func (d *Decision) Allowed() bool {
	switch d.Outcome {
	case OutcomeAllowed, OutcomeExempt:
		return true
	case OutcomeBlocked:
		return false
	default:
		return d.Shadow
	}
}

// Refund returns the request that gives back exactly what req took by this decision, from every limit, under the policy that
// decided, even if the policies have been reloaded since. The values that req looks up must still be available.
func (d *Decision) Refund(req policy.Request) policy.Request {
	req.Op, req.Cost, req.PolicyCost, req.Estimated = domain.OpUndo, d.Cost, false, false
	req.CallerPolicy, req.TakenAt, req.Permit, req.Local = d.AppliedPolicy, d.At, d.PermitID, d.Local
	return req
}

// Settle says how to settle the cost of req, which this decision took, when it is known: needed reports that the request settling
// is to be sent, which charges or refunds the difference, once, under the policy that decided. After that actual is the Cost of d, and
// [Decision.Refund] returns what is then held. The values that req looks up must still be available.
//
// Settle needs nothing if d has a Permit, which is settled by ports.Permits.End or Release; nor if d is not Taken. Whoever gives
// back all that a request has cost sends Refund instead.
func (d *Decision) Settle(req policy.Request, actual domain.Tokens) (settling policy.Request, needed bool) {
	taken := d.Cost
	if !d.Taken || actual == taken {
		return req, false
	}
	d.Cost = actual
	if d.Permit != "" {
		return req, false
	}
	req.Op, req.Cost = domain.OpSettle, actual-taken
	req.PolicyCost, req.Estimated, req.Body = false, false, nil
	req.CallerPolicy, req.TakenAt, req.Local = d.AppliedPolicy, d.At, d.Local
	return req, true
}

// Constraining returns the most constraining limit: the one that denied with the longest wait, else the one with the
// fewest tokens left relative to its capacity. Of equals it is the first. It returns nil if there are no limits.
func (d *Decision) Constraining() *domain.LimitStatus {
	var most *domain.LimitStatus
	for i := range d.Limits {
		if s := &d.Limits[i]; most == nil || s.MoreConstrainingThan(most) {
			most = s
		}
	}
	return most
}

// AppendAdvice appends a sentence for the client of a request that a limit denied: whether and when it could pass.
func (d *Decision) AppendAdvice(dst []byte) []byte {
	most := d.Constraining()
	switch {
	case most == nil || most.LevelUnknown:
		return append(dst, "a limit is reached"...)
	case most.RetryAfter == domain.Never:
		dst = append(dst, "the request costs more than the capacity of the limit "...)
		dst = append(dst, most.Name...)
		return append(dst, ": it can never pass"...)
	}
	dst = append(dst, "the limit "...)
	dst = append(dst, most.Name...)
	dst = append(dst, " is reached: try again in "...)
	dst = strconv.AppendInt(dst, RetrySeconds(most.RetryAfter), 10)
	return append(dst, " s"...)
}
