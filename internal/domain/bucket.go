package domain

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// TokenBucket is a bucket of Capacity tokens, refilled by Refill tokens per Per. [NewBucket] makes a limit of it and
// computes its constants. It is immutable.
type TokenBucket struct {
	size   Tokens // the capacity
	refill Tokens
	per    time.Duration

	tickMicros   int64   // q: 1 or 1000
	tokenCredits Credits // p
	tickCredits  Credits // r
	fullCredits  Credits // capacity * p
	maxDebt      Credits // how far below zero a charge may go
}

// NewBucket returns a limit that is a token bucket. The name must satisfy [ValidName].
//
// The tick is the finest of 1 us and 1 ms that divides per and leaves capacity * p <= 2^52. (Refill is at most
// 10^12, so r always fits.) The error joins a [FieldError] for each wrong field. A limit that cannot be counted
// exactly, or that takes longer than [MaxFill] to fill, is refused; the error names the nearest rate that fits.
func NewBucket(name string, capacity, refill Tokens, per time.Duration) (Limit, error) {
	b := &TokenBucket{size: capacity, refill: refill, per: per}
	if err := b.checkFields(name); err != nil {
		return Limit{}, err
	}
	if !b.precompute(time.Microsecond) && !b.precompute(time.Millisecond) {
		return Limit{}, b.rateError("cannot be counted exactly with this capacity")
	}
	if ceilDiv(int64(b.fullCredits), int64(b.tickCredits)) > maxFillTicks(b.tickMicros) {
		return Limit{}, b.rateError("takes over 100 years to fill the bucket")
	}
	return Limit{name: name, kind: KindTokenBucket, rule: b}, nil
}

func (b *TokenBucket) checkFields(name string) error {
	var errs []error
	bad := func(field string, value any, reason string) {
		errs = append(errs, &FieldError{ErrInvalidLimit, field, fmt.Sprint(value), reason})
	}
	if !ValidName(name) {
		bad("name", strconv.Quote(name), NameRule)
	}
	if b.size < 1 || b.size > MaxTokens {
		bad("capacity", b.size, "must be from 1 to 10^12 tokens")
	}
	if b.refill < 1 || b.refill > MaxTokens {
		bad("rate", b.refill, "must refill from 1 to 10^12 tokens")
	}
	if b.per < time.Microsecond {
		bad("rate", b.per, "the time must be at least 1us")
	}
	return errors.Join(errs...)
}

func (b *TokenBucket) rateError(why string) error {
	near, nearPer := nearestRate(b.size, b.refill, b.per)
	return &FieldError{
		ErrInvalidLimit, "rate", b.rate(),
		why + "; the nearest rate that fits is " + FormatRate(near, nearPer),
	}
}

// precompute computes the constants for one size of tick. It reports false if the limit does not fit that tick.
func (b *TokenBucket) precompute(tick time.Duration) bool {
	if b.per%tick != 0 {
		return false
	}
	ticks := int64(b.per / tick)
	g := gcd(int64(b.refill), ticks)
	p := ticks / g
	if p > int64(MaxCredits)/int64(b.size) {
		return false
	}
	b.tickMicros = tick.Microseconds()
	b.tokenCredits = Credits(p)
	b.tickCredits = Credits(int64(b.refill) / g)
	b.fullCredits = Credits(int64(b.size) * p)
	b.maxDebt = MaxCredits
	if most := maxFillTicks(b.tickMicros); int64(b.tickCredits) <= int64(MaxCredits)/most {
		b.maxDebt = Credits(int64(b.tickCredits) * most)
	}
	return true
}

// Rate returns the refill as configured: the tokens, and the time in which they are added.
func (b *TokenBucket) Rate() (Tokens, time.Duration) { return b.refill, b.per }

// TickMicros is the length of a tick, in microseconds: 1 or 1000.
func (b *TokenBucket) TickMicros() int64 { return b.tickMicros }

// TokenCredits is the number of credits in one token: p in the package comment.
func (b *TokenBucket) TokenCredits() Credits { return b.tokenCredits }

// TickCredits is the number of credits that one tick adds: r in the package comment.
func (b *TokenBucket) TickCredits() Credits { return b.tickCredits }

// FillTime is the time in which an empty bucket fills, rounded up to a tick.
func (b *TokenBucket) FillTime() time.Duration {
	return time.Duration(ceilDiv(int64(b.fullCredits), int64(b.tickCredits))*b.tickMicros) * time.Microsecond
}

// String returns the rate and the capacity: "5/s, capacity 10".
func (b *TokenBucket) String() string {
	return fmt.Sprintf("%s, capacity %d", b.rate(), b.size)
}

func (b *TokenBucket) rate() string { return FormatRate(b.refill, b.per) }

func (b *TokenBucket) capacity() Tokens             { return b.size }
func (b *TokenBucket) window(Instant) time.Duration { return b.FillTime() }

func (b *TokenBucket) equal(other rule) bool { return *b == *other.(*TokenBucket) }

func (b *TokenBucket) full(now Instant) State {
	return State{Amount: b.fullCredits, At: now, TokenCredits: b.tokenCredits}
}

// current returns s refilled to now. If the limit has changed since s was stored, s is first converted to the limit's
// credits. Then each whole tick that has passed adds its credits.
//
//   - At advances by whole ticks, so that the fraction of a tick is kept. When the bucket is full, At becomes now.
//   - If the clock went back, nothing is added and At becomes now. Otherwise a client with an empty bucket would
//     be denied until the clock is back at its old time.
func (b *TokenBucket) current(s State, now Instant) State {
	s = b.converted(s)
	if s.At >= now {
		s.At = now
		return s
	}
	elapsed := int64(now-s.At) / b.tickMicros
	// Compared before it is multiplied: elapsed * r may pass 2^63.
	if elapsed >= ceilDiv(int64(b.fullCredits-s.Amount), int64(b.tickCredits)) {
		return b.full(now)
	}
	s.Amount += Credits(elapsed * int64(b.tickCredits))
	s.At += Instant(elapsed * b.tickMicros)
	return s
}

// converted returns s in the credits of this limit. The bucket keeps its whole tokens, up to the capacity, and
// its fraction of a token, rounded down. A debt beyond the bound becomes the bound.
func (b *TokenBucket) converted(s State) State {
	if s.TokenCredits != b.tokenCredits {
		whole := floorDiv(int64(s.Amount), int64(s.TokenCredits))
		fraction := int64(s.Amount) - whole*int64(s.TokenCredits)
		switch {
		case whole >= int64(b.size):
			s.Amount = b.fullCredits
		case -whole > int64(b.maxDebt/b.tokenCredits): // compared as a quotient: whole * p may pass 2^63
			s.Amount = -b.maxDebt
		default:
			s.Amount = Credits(whole*int64(b.tokenCredits) +
				mulDiv(fraction, int64(b.tokenCredits), int64(s.TokenCredits)))
		}
		s.TokenCredits = b.tokenCredits
	}
	s.Amount = max(min(s.Amount, b.fullCredits), -b.maxDebt)
	return s
}

// canPay compares the cost with the capacity first, so that the product cannot overflow.
func (b *TokenBucket) canPay(s State, cost Tokens, maxWait time.Duration) bool {
	return cost <= b.size && s.Amount >= b.level(cost, maxWait)
}

// level is the least level that pays a cost of at most the capacity, if a request may wait for maxWait. It is at least -maxDebt.
func (b *TokenBucket) level(cost Tokens, maxWait time.Duration) Credits {
	return Credits(cost)*b.tokenCredits - b.lent(maxWait)
}

// lent is what the bucket lends to a request that may wait for maxWait: the refill of as many whole ticks, at most maxDebt.
// Compared as a quotient: the product may pass 2^63.
func (b *TokenBucket) lent(maxWait time.Duration) Credits {
	ticks := maxWait.Microseconds() / b.tickMicros
	if ticks > int64(b.maxDebt/b.tickCredits) {
		return b.maxDebt
	}
	return Credits(ticks) * b.tickCredits
}

// canCharge compares quotients: cost * p may pass 2^63.
func (b *TokenBucket) canCharge(s State, cost Tokens) bool {
	return int64(cost) <= floorDiv(int64(s.Amount+b.maxDebt), int64(b.tokenCredits))
}

func (b *TokenBucket) spend(s State, cost Tokens, _ Instant) State {
	s.Amount -= Credits(cost) * b.tokenCredits
	return s
}

func (b *TokenBucket) mostDebt(s State, _ Instant) State {
	s.Amount = -b.maxDebt
	return s
}

func (b *TokenBucket) refund(s State, cost Tokens, _ Instant) State {
	// Compared as a quotient: cost * p may pass 2^63.
	if int64(cost) >= ceilDiv(int64(b.fullCredits-s.Amount), int64(b.tokenCredits)) {
		s.Amount = b.fullCredits
	} else {
		s.Amount += Credits(cost) * b.tokenCredits
	}
	return s
}

func (b *TokenBucket) counts(_, _ Instant) bool { return true }

func (b *TokenBucket) remaining(s State) Tokens {
	return Tokens(floorDiv(int64(s.Amount), int64(b.tokenCredits)))
}

func (b *TokenBucket) untilPays(s State, cost Tokens, maxWait time.Duration, now Instant) time.Duration {
	return b.until(s, b.level(cost, maxWait), now)
}

func (b *TokenBucket) untilFull(s State, now Instant) time.Duration {
	return b.until(s, b.fullCredits, now)
}

func (b *TokenBucket) untilNext(s State, now Instant) time.Duration {
	if s.Amount >= b.fullCredits {
		return 0
	}
	return b.until(s, (Credits(max(b.remaining(s), 0))+1)*b.tokenCredits, now)
}

func (b *TokenBucket) fullAt(s State) Instant {
	missing := ceilDiv(int64(b.fullCredits-s.Amount), int64(b.tickCredits))
	return s.At + Instant(missing*b.tickMicros)
}

func (b *TokenBucket) until(s State, level Credits, now Instant) time.Duration {
	if s.Amount >= level {
		return 0
	}
	missing := ceilDiv(int64(level-s.Amount), int64(b.tickCredits))
	return (s.At + Instant(missing*b.tickMicros)).Sub(now)
}
