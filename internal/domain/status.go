package domain

import (
	"math/bits"
	"time"
)

// LimitStatus is the state of one limit after a decision. All waits count from the decision and are exact. Code
// that shows them in a coarser unit must round up.
type LimitStatus struct {
	Name       string
	Allowed    bool
	Capacity   Tokens
	Remaining  Tokens        // rounded down; below zero after a charge
	RetryAfter time.Duration // 0 if Allowed; Never if the cost is above the capacity
	ResetAfter time.Duration // until the bucket is full, or the quota's period ends; 0 if nothing is spent
	NextToken  time.Duration // until one more whole token is there; 0 if nothing is spent
	// Window is the time over which the limit counts, see Limit.Window; 0 for permits, and for a quota whose state is not known.
	Window time.Duration
	// LevelUnknown reports that this limit was not checked, because the store failed or a limit with another key
	// denied first. Remaining and the waits are then zero.
	LevelUnknown bool
}

// MoreConstrainingThan reports whether s is more constraining than t, see Decision.Constraining.
func (s *LimitStatus) MoreConstrainingThan(t *LimitStatus) bool {
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

// Status describes l for a request of the given cost that may wait for maxWait. s is current at now. allowed is the verdict of the whole group: if it
// is true, every limit allowed the request and the cost has been taken from s already.
func (l *Limit) Status(s State, now Instant, cost Tokens, maxWait time.Duration, allowed bool) LimitStatus {
	out := LimitStatus{
		Name:       l.name,
		Allowed:    allowed || l.CanPayWithin(s, cost, maxWait),
		Capacity:   l.Capacity(),
		Remaining:  l.Remaining(s),
		ResetAfter: l.ResetAfter(s, now),
		NextToken:  l.NextToken(s, now),
		Window:     l.Window(now),
	}
	if !out.Allowed {
		out.RetryAfter = l.RetryAfter(s, cost, maxWait, now)
	}
	return out
}

// UnknownStatus describes l when its state is not known, because a failure policy decided.
func (l *Limit) UnknownStatus(allowed bool) LimitStatus {
	out := LimitStatus{Name: l.name, Allowed: allowed, Capacity: l.Capacity(), LevelUnknown: true}
	if b := l.TokenBucket(); b != nil {
		out.Window = b.FillTime()
	}
	return out
}
