package domain

import (
	"math/bits"
	"time"
)

// Outcome is what a decision means for the request. The zero value denies.
type Outcome uint8

// The outcomes.
const (
	// OutcomeDenied means that the limit is reached.
	OutcomeDenied Outcome = iota
	// OutcomeAllowed means that the request may pass.
	OutcomeAllowed
	// OutcomeUnavailable means that the store failed and the policy is closed, so the request may not pass.
	OutcomeUnavailable
	// OutcomeBlocked means that the policy lets this client never pass, also in shadow mode. No limit was asked.
	OutcomeBlocked
	// OutcomeExempt means that the policy does not limit this client. No limit was asked.
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

// StoreName says who decided.
type StoreName string

// The stores that decide.
const (
	StoreRedis    StoreName = "redis"
	StoreMemory   StoreName = "memory"
	StoreShortcut StoreName = "shortcut" // repeated from a denial just seen
	StoreFallback StoreName = "fallback" // the failure policy
	StorePolicy   StoreName = "policy"   // none: the policy blocks the client or exempts it
)

// Decision is the answer to a [Request].
type Decision struct {
	// Outcome is what the limits say. In shadow mode it is what would have been.
	Outcome Outcome
	// Shadow says that the policy is in shadow mode: whatever the Outcome, but for OutcomeBlocked, the request may pass.
	Shadow bool
	// Policy is the name of the policy that applied.
	Policy string
	// Client is the value of the policy's key, whole: it may be personal, and belongs in no metric and no answer.
	Client string
	// KeyMissing reports that the request had no value for the policy's key, for a part of it or for the key of one of
	// the limits, and the client's address stood in.
	KeyMissing bool
	// ClientIsAddress reports that Client is no value of the policy's key but the address that stood in for it.
	ClientIsAddress bool
	// Cost is what was asked for, in tokens.
	Cost Tokens
	// RefundOn are the statuses of the upstream's answer after which the tokens are to come back: the door then sends
	// what [Decision.Refund] makes of its request. Empty where no tokens were taken, or not by the store.
	RefundOn StatusSet
	// Store says who decided.
	Store StoreName
	// At is the store's time of the decision; 0 where LevelKnown is false.
	At Instant
	// LevelKnown is false when the failure policies open and closed decided about all limits: then none carries a level.
	LevelKnown bool
	// Limits has one entry per limit of the policy, in its order; none if the client is blocked or exempt.
	Limits []LimitStatus
	// By is the policy that applied, for [Decision.Refund]; nil if none did.
	By *Policy
}

// LimitStatus is one limit's part in a decision. All waits count from the decision and are exact; whoever shows
// them in a coarser unit rounds them up.
type LimitStatus struct {
	Name       string
	Allowed    bool
	Capacity   Tokens
	Remaining  Tokens        // rounded down; below zero after a charge
	RetryAfter time.Duration // 0 if Allowed; Never if the cost is above the capacity
	ResetAfter time.Duration // until the bucket is full
	NextToken  time.Duration // until one more whole token is there; 0 when full
	FillTime   time.Duration // in which an empty bucket fills
	// LevelUnknown says that this limit was not looked at: the store failed, or one of another key denied first. Then
	// nothing is known of level and waits, and Allowed says nothing against it.
	LevelUnknown bool
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

// Refund returns the request that gives back what req took by this decision: as much, and under the policy that decided,
// whatever policies are in force by now. The values that req looks up must still be there.
func (d *Decision) Refund(req Request) Request {
	req.Op, req.Cost, req.PolicyCost, req.Own = OpRefund, d.Cost, false, d.By
	return req
}

// Constraining returns the limit that binds most: the one that denied with the longest wait, else the one with the
// fewest tokens left relative to its capacity. The first of equals. Nil if there are no limits.
func (d *Decision) Constraining() *LimitStatus {
	var most *LimitStatus
	for i := range d.Limits {
		if s := &d.Limits[i]; most == nil || s.BindsMoreThan(most) {
			most = s
		}
	}
	return most
}

// BindsMoreThan reports whether s is more constraining than t, see [Decision.Constraining].
func (s *LimitStatus) BindsMoreThan(t *LimitStatus) bool {
	if s.LevelUnknown != t.LevelUnknown {
		return t.LevelUnknown
	}
	if s.Allowed != t.Allowed {
		return t.Allowed
	}
	if !s.Allowed && s.RetryAfter != t.RetryAfter {
		// As unsigned, Never (-1) is the longest wait of all.
		return uint64(s.RetryAfter) > uint64(t.RetryAfter)
	}
	// s.Remaining / s.Capacity < t.Remaining / t.Capacity, without dividing; a debt counts as nothing left.
	sHi, sLo := bits.Mul64(uint64(max(s.Remaining, 0)), uint64(t.Capacity))
	tHi, tLo := bits.Mul64(uint64(max(t.Remaining, 0)), uint64(s.Capacity))
	return sHi < tHi || sHi == tHi && sLo < tLo
}

// Status describes l at now, for a request of the given cost, from its bucket as seen at now. allowed is the
// verdict of the whole group: when it is set, the cost has been dealt with already and every limit allowed.
func (l *Limit) Status(b Bucket, now Instant, cost Tokens, allowed bool) LimitStatus {
	s := LimitStatus{
		Name:       l.name,
		Allowed:    allowed || l.Affords(b, cost),
		Capacity:   l.capacity,
		Remaining:  l.Remaining(b),
		ResetAfter: l.ResetAfter(b, now),
		NextToken:  l.NextToken(b, now),
		FillTime:   l.FillTime(),
	}
	if !s.Allowed {
		s.RetryAfter = l.RetryAfter(b, cost, now)
	}
	return s
}

// UnknownStatus describes l where no level is known, because the failure policy decided.
func (l *Limit) UnknownStatus(allowed bool) LimitStatus {
	return LimitStatus{Name: l.name, Allowed: allowed, Capacity: l.capacity, FillTime: l.FillTime(), LevelUnknown: true}
}
