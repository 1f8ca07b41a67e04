// Package invariant checks from outside what a rate limiter decided. It gets each operation on a limit with its answer,
// replays the limit, and reports every breach of its two invariants:
//
//   - of a token bucket, for every window, admitted - refunded <= capacity + refill * window / per; of a quota, for every
//     period, admitted - refunded <= quota; of a concurrency limit, at every instant, the permits that are granted, unreleased
//     and unexpired are at most as many as it has;
//   - a take is denied only if its tokens were not there, or all permits were held.
//
// A take that waits counts at its decision + its wait, which is rounded up to a tick.
//
// One replay checks all windows at once, in time linear in the number of records.
//
// The package has its own arithmetic. It shares no code with the limiter, and does not know which faults were injected.
// It needs the time of each decision by the clock of the store that made it.
package invariant

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Limit is the limit of one bucket.
type Limit struct {
	Capacity, Refill int64 // tokens
	Per              time.Duration
}

// Op is an operation on a bucket.
type Op uint8

// The operations.
const (
	Take Op = iota
	Peek
	Refund
	Charge
)

// Verdict is the answer to an operation.
type Verdict uint8

// The verdicts.
const (
	Denied Verdict = iota
	Allowed
	// Lost means that no answer arrived. The operation ran once, possibly much later, or never.
	Lost
)

// NoLevel is the level of an answer that carries none.
const NoLevel int64 = math.MinInt64

// Record is one operation on one limit, and its answer.
type Record struct {
	// NowUS is the store's time of the decision, in microseconds. For a lost operation it is any time of the store
	// that had passed when the operation was sent.
	NowUS int64
	// SpanUS is set for a denial that the store did not make itself. The denial is correct if it is correct at any
	// time from NowUS to NowUS+SpanUS.
	SpanUS int64
	// WaitUS is how long a take that was allowed has to wait for this limit, by its answer. Of a take that was denied, it is how long it would
	// have waited, in whole ticks of the limit.
	WaitUS int64
	// Level is the level that the answer reported, in units of the limit (see [Limit.Units]), or NoLevel.
	Level int64
	// TakenUS is the store's time at which the tokens of a refund or a charge were taken. What was taken before a quota's
	// current period changes nothing. 0 means now.
	TakenUS int64
	Cost    int64 // tokens
	Op      Op
	Verdict Verdict
}

// A Checker counts in units. One token is as many units as Per has microseconds, so one microsecond refills exactly
// Refill units.

// unitsPerToken returns the number of units in one token.
func (l *Limit) unitsPerToken() int64 { return l.Per.Microseconds() }

// full returns the level of a full bucket, in units.
func (l *Limit) full() int64 { return l.Capacity * l.unitsPerToken() }

// Units converts a level that is counted in parts of a token, perToken to the token, to units.
func (l *Limit) Units(parts, perToken int64) int64 {
	units := l.unitsPerToken()
	if units%perToken != 0 {
		panic(fmt.Sprintf("invariant: %d units are not divisible into %d parts", units, perToken))
	}
	return parts * (units / perToken)
}

// passed implements rule: it returns the refilled level.
func (l *Limit) passed(level, from, to int64) int64 {
	elapsed, full := to-from, l.full()
	switch {
	case elapsed <= 0 || level >= full:
		return level
	case elapsed > (full-level)/l.Refill:
		return full
	default:
		return level + elapsed*l.Refill
	}
}

// lent implements rule: it returns what is refilled meanwhile.
func (l *Limit) lent(waitUS int64) int64 {
	if waitUS > math.MaxInt64/2/l.Refill {
		return math.MaxInt64 / 2
	}
	return waitUS * l.Refill
}

func (l *Limit) granted(level, from, to int64) int64 { return l.passed(level, from, to) }

func (l *Limit) counts(_, _ int64) bool { return true }

// validate returns an error for a limit that a Checker cannot count exactly.
func (l *Limit) validate() error {
	switch {
	case l.Capacity < 1 || l.Refill < 1 || l.Per.Microseconds() < 1:
		return errors.New("invariant: capacity, refill and per must be positive")
	case l.Per%time.Microsecond != 0:
		return fmt.Errorf("invariant: %v is not in whole microseconds", l.Per)
	case l.Capacity > math.MaxInt64/8/l.unitsPerToken():
		return fmt.Errorf("invariant: a capacity of %d in %v is too large to count", l.Capacity, l.Per)
	}
	return nil
}
