package domain

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

const (
	// MaxConcurrent bounds the permits of a limit.
	MaxConcurrent Tokens = 1_000_000
	// MinLease is the shortest time for which a permit can be valid without being renewed.
	MinLease = time.Second
	// MaxLease is the longest.
	MaxLease = 24 * time.Hour
	// concurrencyRetry is the wait for a client that found all permits held: no one knows when one is released.
	concurrencyRetry = time.Second
)

// Concurrency is a number of permits that can be held at once. [NewConcurrency] makes a limit of it. It is immutable.
//
// A take that passes holds one permit, whatever the request costs, until it is released or its lease ends. A state says how
// many are held; the permits themselves are in [Permits], or in another form in a store.
type Concurrency struct {
	size  Tokens
	lease time.Duration
}

// NewConcurrency returns a limit of 1 to [MaxConcurrent] permits at once, each valid for a lease of [MinLease] to [MaxLease],
// in whole microseconds. The name must satisfy [ValidName]. The error joins a [FieldError] for each wrong field.
func NewConcurrency(name string, concurrent Tokens, lease time.Duration) (Limit, error) {
	var errs []error
	if !ValidName(name) {
		errs = append(errs, &FieldError{ErrInvalidLimit, "name", strconv.Quote(name), NameRule})
	}
	if concurrent < 1 || concurrent > MaxConcurrent {
		errs = append(errs, &FieldError{
			ErrInvalidLimit, "concurrent", strconv.FormatInt(int64(concurrent), 10), "must be from 1 to 1000000 permits",
		})
	}
	if lease < MinLease || lease > MaxLease || lease%time.Microsecond != 0 {
		errs = append(errs, &FieldError{
			ErrInvalidLimit, "lease", lease.String(), "must be from " + FormatDuration(MinLease) + " to " + FormatDuration(MaxLease) + ", in whole microseconds",
		})
	}
	if len(errs) > 0 {
		return Limit{}, errors.Join(errs...)
	}
	return Limit{name: name, cost: 1, kind: KindConcurrency, rule: &Concurrency{concurrent, lease}}, nil
}

// Lease is how long a permit is valid after its take, or after it was last renewed.
func (c *Concurrency) Lease() time.Duration { return c.lease }

// Held is how many permits are held. s is current.
func (c *Concurrency) Held(s State) Tokens { return Tokens(s.Amount) }

// String returns the number of permits and their lease: "5 at once, lease 60s".
func (c *Concurrency) String() string {
	return fmt.Sprintf("%s, lease %s", c.rate(), FormatDuration(c.lease))
}

func (c *Concurrency) rate() string { return strconv.FormatInt(int64(c.size), 10) + " at once" }

func (c *Concurrency) capacity() Tokens { return c.size }

func (c *Concurrency) equal(other rule) bool { return *c == *other.(*Concurrency) }

func (c *Concurrency) full(now Instant) State { return State{At: now, TokenCredits: 1} }

// current returns s: the store has left out expired permits.
func (c *Concurrency) current(s State, _ Instant) State { return s }

func (c *Concurrency) canPay(s State, _ Tokens, _ time.Duration) bool {
	return s.Amount < Credits(c.size)
}

func (c *Concurrency) canCharge(State, Tokens) bool { return true }

// spend and refund return s: the permits themselves are added and removed.
func (c *Concurrency) spend(s State, _ Tokens, _ Instant) State  { return s }
func (c *Concurrency) refund(s State, _ Tokens, _ Instant) State { return s }
func (c *Concurrency) mostDebt(s State, _ Instant) State         { return s }

func (c *Concurrency) counts(_, _ Instant) bool { return true }

func (c *Concurrency) remaining(s State) Tokens { return c.size - Tokens(s.Amount) }

func (c *Concurrency) untilPays(State, Tokens, time.Duration, Instant) time.Duration {
	return concurrencyRetry
}

// untilFull is how long until the oldest permit expires.
func (c *Concurrency) untilFull(s State, now Instant) time.Duration {
	if s.Amount == 0 {
		return 0
	}
	return s.At.Sub(now)
}

func (c *Concurrency) untilNext(State, Instant) time.Duration { return 0 }
func (c *Concurrency) fullAt(s State) Instant                 { return s.At }
func (c *Concurrency) window(Instant) time.Duration           { return 0 }
