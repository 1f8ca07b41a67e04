package domain

import (
	"errors"
	"strconv"
	"time"
)

// Periods divides time into the periods of a quota: each begins where the last one ends. An implementation is immutable
// and safe for concurrent use. *calendar.Schedule is one.
type Periods interface {
	// At returns the period that now is in, start <= now < end, and the end of the period after it.
	At(now Instant) (start, end, nextEnd Instant)
	// String returns the periods as configured: "day", "month in Europe/Berlin from 2026-01-15". Equal texts are equal periods.
	String() string
}

// Quota is a number of tokens that can be spent in each period. [NewQuota] makes a limit of it. It is immutable.
//
// A state holds what was used. It counts if it was last changed in the current period, or later, before the clock went
// back. So a client never gets more than the quota in a period, unless the clock crosses the period's end and comes back.
type Quota struct {
	size    Tokens
	periods Periods
}

// NewQuota returns a limit that is a quota of 1 to [MaxTokens] tokens in each period. The name must satisfy [ValidName].
// The error joins a [FieldError] for each wrong field.
func NewQuota(name string, quota Tokens, periods Periods) (Limit, error) {
	var errs []error
	if !ValidName(name) {
		errs = append(errs, &FieldError{ErrInvalidLimit, "name", strconv.Quote(name), NameRule})
	}
	if quota < 1 || quota > MaxTokens {
		errs = append(errs, &FieldError{
			ErrInvalidLimit, "quota", strconv.FormatInt(int64(quota), 10), "must be from 1 to 10^12 tokens",
		})
	}
	if periods == nil {
		errs = append(errs, &FieldError{ErrInvalidLimit, "quota", "", "must have a period"})
	}
	if len(errs) > 0 {
		return Limit{}, errors.Join(errs...)
	}
	return Limit{name: name, kind: KindQuota, rule: &Quota{quota, periods}}, nil
}

// Periods are the times in which the quota counts.
func (q *Quota) Periods() Periods { return q.periods }

// Used is how much of the quota is spent, in tokens. s is current.
func (q *Quota) Used(s State) Tokens { return Tokens(s.Amount) }

// String returns the quota and its periods: "quota 1000/day".
func (q *Quota) String() string { return "quota " + q.rate() }

func (q *Quota) rate() string { return strconv.FormatInt(int64(q.size), 10) + "/" + q.periods.String() }

func (q *Quota) capacity() Tokens { return q.size }

func (q *Quota) equal(other rule) bool {
	o := other.(*Quota)
	return q.size == o.size && (q.periods == o.periods || q.periods.String() == o.periods.String())
}

func (q *Quota) full(now Instant) State { return State{At: now, TokenCredits: 1} }

func (q *Quota) current(s State, now Instant) State {
	if start, _, _ := q.periods.At(now); s.At < start {
		return q.full(now)
	}
	s.Amount = max(0, min(s.Amount, q.most()))
	s.At = min(s.At, now)
	return s
}

// most is the largest amount that is stored: the whole quota and the largest debt.
func (q *Quota) most() Credits { return Credits(q.size) + MaxCredits }

func (q *Quota) canPay(s State, cost Tokens, _ time.Duration) bool {
	return cost <= q.size && s.Amount <= Credits(q.size-cost)
}

func (q *Quota) canCharge(s State, cost Tokens) bool { return s.Amount <= q.most()-Credits(cost) }

func (q *Quota) spend(s State, cost Tokens, now Instant) State {
	return State{Amount: s.Amount + Credits(cost), At: now, TokenCredits: 1}
}

func (q *Quota) mostDebt(_ State, now Instant) State {
	return State{Amount: q.most(), At: now, TokenCredits: 1}
}

func (q *Quota) refund(s State, cost Tokens, now Instant) State {
	if s.Amount == 0 {
		return s
	}
	return State{Amount: max(0, s.Amount-Credits(cost)), At: now, TokenCredits: 1}
}

func (q *Quota) counts(takenAt, now Instant) bool {
	start, _, _ := q.periods.At(now)
	return takenAt >= start
}

func (q *Quota) remaining(s State) Tokens { return q.size - Tokens(s.Amount) }

func (q *Quota) untilPays(_ State, _ Tokens, _ time.Duration, now Instant) time.Duration {
	return q.end(now).Sub(now)
}

func (q *Quota) untilNext(s State, now Instant) time.Duration { return q.untilFull(s, now) }

func (q *Quota) untilFull(s State, now Instant) time.Duration {
	if s.Amount == 0 {
		return 0
	}
	return q.end(now).Sub(now)
}

func (q *Quota) fullAt(s State) Instant {
	if s.Amount == 0 {
		return s.At
	}
	return q.end(s.At)
}

// end is when the period that at is in ends.
func (q *Quota) end(at Instant) Instant {
	_, end, _ := q.periods.At(at)
	return end
}

func (q *Quota) window(now Instant) time.Duration {
	start, end, _ := q.periods.At(now)
	return end.Sub(start)
}
