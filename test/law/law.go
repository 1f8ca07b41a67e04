// Package law judges from outside what a rate limiter did. It is told each operation on a bucket and its answer, plays
// the bucket again as a meter, and says where the law was broken: for every window, admitted - refunded <= capacity +
// refill * window / per, and denied only where the tokens were not there. Playing the meter once checks all windows
// at once, in the time that reading the records takes.
//
// It has an arithmetic of its own, shares nothing with the limiter, and knows nothing of the faults under which the
// records were made. What it needs is the time of each decision by the clock of the store that made it.
package law

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Limit is the rule of one bucket.
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
	// Lost is an operation whose answer did not arrive: it was carried out once, or not at all, maybe much later.
	Lost
)

// NoLevel is the level of an answer that did not tell it.
const NoLevel int64 = math.MinInt64

// Record is one operation on one bucket, and its answer.
type Record struct {
	// NowUS is the store's time of the decision, in microseconds. Of a lost operation it is a time of the store that
	// had come when it was sent.
	NowUS int64
	// SpanUS is for a denial that the store did not make itself: it is just if it is just at NowUS or at any time up
	// to SpanUS later.
	SpanUS int64
	// Level is what the answer said is left, in units of the limit; see [Limit.Units]. Or NoLevel.
	Level   int64
	Cost    int64 // tokens
	Op      Op
	Verdict Verdict
}

// A Meter counts in units: one token is as many units as its Per has microseconds, so that one microsecond refills
// exactly Refill units.

// perUS is the number of units in a token.
func (l *Limit) perUS() int64 { return l.Per.Microseconds() }

// full is a full bucket, in units.
func (l *Limit) full() int64 { return l.Capacity * l.perUS() }

// Units converts a level that is counted in parts of a token, perToken of which are one.
func (l *Limit) Units(parts, perToken int64) int64 {
	per := l.perUS()
	if per%perToken != 0 {
		panic(fmt.Sprintf("law: %d parts of a token do not divide %d units", perToken, per))
	}
	return parts * (per / perToken)
}

// Tokens converts units, rounding up.
func (l *Limit) Tokens(units int64) int64 { return (units + l.perUS() - 1) / l.perUS() }

// check refuses a limit that a meter cannot count exactly.
func (l *Limit) check() error {
	per := l.perUS()
	switch {
	case l.Capacity < 1 || l.Refill < 1 || per < 1:
		return errors.New("law: capacity, refill and per must be positive")
	case l.Per%time.Microsecond != 0:
		return fmt.Errorf("law: %v is not in whole microseconds", l.Per)
	case l.Capacity > math.MaxInt64/8/per:
		return fmt.Errorf("law: a capacity of %d in %v is too large to count", l.Capacity, l.Per)
	}
	return nil
}
