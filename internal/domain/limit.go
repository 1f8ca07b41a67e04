package domain

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Kind says by which rule a limit counts. Its value is the letter that prefixes the limit's field in a store,
// so that limits of several kinds can live in one bucket group.
type Kind byte

// KindTokenBucket is a bucket that refills steadily.
const KindTokenBucket Kind = 'b'

// DefaultLimitName is the name of a limit that was given none.
const DefaultLimitName = "default"

// Limit is one rule, of Capacity tokens refilled by Refill tokens per Per, with its arithmetic worked out.
// It is immutable and made by [NewLimit] alone; the zero value limits nothing and is refused by every store.
type Limit struct {
	name     string
	capacity Tokens
	refill   Tokens
	per      time.Duration

	tickMicros   int64   // q: 1 or 1000
	tokenCredits Credits // p
	tickCredits  Credits // r
	full         Credits // capacity * p
	maxDebt      Credits // how far below zero a charge may go
}

// NewLimit works a limit out. An empty name becomes [DefaultLimitName].
//
// The tick is the finest of 1 us and 1 ms that divides per and leaves capacity * p <= 2^52. (Refill is at most
// 10^12, so r always fits.) The error joins a [FieldError] for each field that is wrong; a limit that can not be
// counted exactly, or that takes longer than [MaxFill] to fill, is refused with the nearest rate that fits.
func NewLimit(name string, capacity, refill Tokens, per time.Duration) (Limit, error) {
	if name == "" {
		name = DefaultLimitName
	}
	l := Limit{name: name, capacity: capacity, refill: refill, per: per}
	if err := l.checkFields(); err != nil {
		return Limit{}, err
	}
	if !l.workOut(time.Microsecond) && !l.workOut(time.Millisecond) {
		return Limit{}, l.rateError("cannot be counted exactly with this capacity")
	}
	if ceilDiv(int64(l.full), int64(l.tickCredits)) > maxFillTicks(l.tickMicros) {
		return Limit{}, l.rateError("takes over 100 years to fill the bucket")
	}
	return l, nil
}

func (l *Limit) checkFields() error {
	var errs []error
	bad := func(field string, value any, reason string) {
		errs = append(errs, &FieldError{ErrInvalidLimit, field, fmt.Sprint(value), reason})
	}
	if !ValidName(l.name) {
		bad("name", strconv.Quote(l.name), nameRule)
	}
	if l.capacity < 1 || l.capacity > MaxTokens {
		bad("capacity", l.capacity, "must be from 1 to 10^12 tokens")
	}
	if l.refill < 1 || l.refill > MaxTokens {
		bad("rate", l.refill, "must refill from 1 to 10^12 tokens")
	}
	if l.per < time.Microsecond {
		bad("rate", l.per, "the time must be at least 1us")
	}
	return errors.Join(errs...)
}

func (l *Limit) rateError(why string) error {
	near, nearPer := nearestRate(l.capacity, l.refill, l.per)
	return &FieldError{
		ErrInvalidLimit, "rate", FormatRate(l.refill, l.per),
		why + "; the nearest rate that fits is " + FormatRate(near, nearPer),
	}
}

// workOut fills in the arithmetic for one size of tick, or reports that the limit does not fit it.
func (l *Limit) workOut(tick time.Duration) bool {
	if l.per%tick != 0 {
		return false
	}
	ticks := int64(l.per / tick)
	g := gcd(int64(l.refill), ticks)
	p := ticks / g
	if p > int64(MaxCredits)/int64(l.capacity) {
		return false
	}
	l.tickMicros = tick.Microseconds()
	l.tokenCredits = Credits(p)
	l.tickCredits = Credits(int64(l.refill) / g)
	l.full = Credits(int64(l.capacity) * p)
	l.maxDebt = MaxCredits
	if most := maxFillTicks(l.tickMicros); int64(l.tickCredits) <= int64(MaxCredits)/most {
		l.maxDebt = Credits(int64(l.tickCredits) * most)
	}
	return true
}

func maxFillTicks(tickMicros int64) int64 { return MaxFill.Microseconds() / tickMicros }

// Name is unique within its policy.
func (l *Limit) Name() string { return l.name }

// Kind says by which rule the limit counts.
func (l *Limit) Kind() Kind { return KindTokenBucket }

// Capacity is the most tokens that the bucket holds, and so the largest burst.
func (l *Limit) Capacity() Tokens { return l.capacity }

// Rate is the refill, as it was configured: so many tokens in so long a time.
func (l *Limit) Rate() (Tokens, time.Duration) { return l.refill, l.per }

// TickMicros is the length of a tick, in microseconds: 1 or 1000.
func (l *Limit) TickMicros() int64 { return l.tickMicros }

// TokenCredits is what one token is worth: p of the package's arithmetic.
func (l *Limit) TokenCredits() Credits { return l.tokenCredits }

// TickCredits is what one tick refills: r of the package's arithmetic.
func (l *Limit) TickCredits() Credits { return l.tickCredits }

// IsZero reports whether l was not made by [NewLimit].
func (l *Limit) IsZero() bool { return l.tokenCredits == 0 }

// FillTime is the time in which an empty bucket fills, rounded up to a tick.
func (l *Limit) FillTime() time.Duration {
	return l.ticks(ceilDiv(int64(l.full), int64(l.tickCredits)))
}

func (l *Limit) ticks(n int64) time.Duration {
	return time.Duration(n*l.tickMicros) * time.Microsecond
}

// String is meant for people: "burst: 5/s, capacity 10".
func (l *Limit) String() string {
	return fmt.Sprintf("%s: %s, capacity %d", l.name, FormatRate(l.refill, l.per), l.capacity)
}

const nameRule = "must match [a-z0-9][a-z0-9_-]{0,62}"

// ValidName reports whether s can name a limit or a policy: [a-z0-9][a-z0-9_-]{0,62}.
func ValidName(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '_' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
