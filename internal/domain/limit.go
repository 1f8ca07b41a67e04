package domain

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind is the rule by which a limit counts. Its value is the letter that prefixes the limit's field in a store,
// so that one bucket group can hold limits of several kinds.
type Kind byte

// The kinds.
const (
	KindTokenBucket Kind = 'b' // a bucket that refills steadily
	KindQuota       Kind = 'q' // a number of tokens in each period
	KindConcurrency Kind = 'f' // a number of permits that can be held at once
)

// String returns the kind as documents and answers write it: "bucket", "quota" or "concurrency".
func (k Kind) String() string {
	switch k {
	case KindTokenBucket:
		return "bucket"
	case KindQuota:
		return "quota"
	case KindConcurrency:
		return "concurrency"
	default:
		return "kind(" + strconv.Itoa(int(k)) + ")"
	}
}

// Limit is one rule, of one kind. [NewBucket], [NewQuota] and [NewConcurrency] make it. It is immutable and safe for concurrent use. The zero
// value limits nothing: every store refuses it, and only its methods Name, Kind, Cost, IsZero and Equal may be called.
type Limit struct {
	name string
	cost Tokens // what a request costs here; 0: what the request says
	kind Kind
	rule rule
}

// rule is how the limits of one kind count. There is one implementation for each kind, in a file of its own. A rule is
// immutable and pure: the state and the time are arguments. Every cost that it gets is at least 1.
type rule interface {
	capacity() Tokens
	// full is the state of a client that has spent nothing.
	full(now Instant) State
	// current returns a stored state as it counts at now. If the clock went back, its time becomes now.
	current(s State, now Instant) State

	// The states below are current at now.

	// canPay reports whether the cost can be paid, also by borrowing what is refilled within maxWait.
	canPay(s State, cost Tokens, maxWait time.Duration) bool
	// canCharge reports whether a charge stays within the debt that the rule allows.
	canCharge(s State, cost Tokens) bool
	spend(s State, cost Tokens, now Instant) State
	// mostDebt is the state of the largest debt.
	mostDebt(s State, now Instant) State
	// refund gives back at most what is missing. It returns s itself if nothing is. counts reports whether tokens that were
	// taken at takenAt still count.
	refund(s State, cost Tokens, now Instant) State
	counts(takenAt, now Instant) bool

	remaining(s State) Tokens
	// untilPays is how long after now canPay will hold, which does not now; the cost is at most the capacity.
	untilPays(s State, cost Tokens, maxWait time.Duration, now Instant) time.Duration
	untilFull(s State, now Instant) time.Duration
	untilNext(s State, now Instant) time.Duration
	fullAt(s State) Instant
	window(now Instant) time.Duration

	equal(other rule) bool // other is of the same kind
	rate() string
	String() string
}

// State is what is stored of one limit for one client. The zero value says that nothing is stored: the client has spent
// nothing. State is a plain value; the store that holds it synchronises access.
type State struct {
	// Amount is the level of a token bucket, below zero after a charge or while a request waits; the used part of a quota,
	// above it after a charge; the number of permits held.
	Amount Credits
	// At is the instant up to which a bucket's refilling has been counted; the time of a quota's last change; when the first of
	// the permits held expires, or now if none is.
	At Instant
	// TokenCredits is the number of credits in a token when the state was stored. A changed bucket converts by it. Quotas and
	// permits are counted whole: 1.
	TokenCredits Credits
}

// WithCost returns the limit with a cost of its own: a request takes that from it, whatever the request costs. Refunds and
// charges do not touch it. The cost is from 1 to the capacity, and at most [MaxCost]. A limit of [KindConcurrency] refuses it:
// it always counts one permit.
func (l Limit) WithCost(cost Tokens) (Limit, error) {
	if l.kind == KindConcurrency {
		return Limit{}, &FieldError{
			ErrInvalidLimit, "cost", strconv.FormatInt(int64(cost), 10), "a concurrency limit always counts one permit",
		}
	}
	if most := min(l.Capacity(), MaxCost); cost < 1 || cost > most {
		reason := "must be from 1 to " + strconv.FormatInt(int64(most), 10)
		if most < MaxCost {
			reason += ", the capacity of " + l.name
		}
		return Limit{}, &FieldError{ErrInvalidLimit, "cost", strconv.FormatInt(int64(cost), 10), reason}
	}
	l.cost = cost
	return l, nil
}

// Name is unique within its policy.
func (l *Limit) Name() string { return l.name }

// Kind is the rule by which the limit counts; 0 for the zero value.
func (l *Limit) Kind() Kind { return l.kind }

// Capacity is the most tokens that can be spent at once: those in a full bucket, the whole quota, or all permits.
func (l *Limit) Capacity() Tokens { return l.rule.capacity() }

// Cost is the limit's own cost, or 0 if it is charged what the request costs. That of permits is 1.
func (l *Limit) Cost() Tokens { return l.cost }

// CostOf returns what a request of this cost takes from the limit: its own cost, if it has one.
func (l *Limit) CostOf(request Tokens) Tokens {
	if l.cost > 0 && request > 0 {
		return l.cost
	}
	return request
}

// TokenBucket returns the rule of a limit of [KindTokenBucket], and nil for other kinds.
func (l *Limit) TokenBucket() *TokenBucket {
	b, _ := l.rule.(*TokenBucket)
	return b
}

// Quota returns the rule of a limit of [KindQuota], and nil for other kinds.
func (l *Limit) Quota() *Quota {
	q, _ := l.rule.(*Quota)
	return q
}

// Concurrency returns the rule of a limit of [KindConcurrency], and nil for other kinds.
func (l *Limit) Concurrency() *Concurrency {
	c, _ := l.rule.(*Concurrency)
	return c
}

// IsZero reports whether l is the zero value.
func (l *Limit) IsZero() bool { return l.rule == nil }

// Equal reports whether two limits have the same name and count alike.
func (l Limit) Equal(other Limit) bool {
	if l.name != other.name || l.cost != other.cost || l.kind != other.kind {
		return false
	}
	return l.rule == other.rule || l.rule.equal(other.rule)
}

// EqualLimits reports whether two lists have equal limits in the same order.
func EqualLimits(a, b []Limit) bool {
	if len(a) != len(b) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || slices.EqualFunc(a, b, Limit.Equal) // mostly the same slice
}

// Full returns the state of a client that has spent nothing.
func (l *Limit) Full(now Instant) State { return l.rule.full(now) }

// Current returns a stored state as it counts at now: a bucket is refilled, and what was used in an earlier period of a
// quota is forgotten. If the clock went back, the state counts as it is, and its time becomes now.
func (l *Limit) Current(s State, now Instant) State {
	if s.TokenCredits == 0 {
		return l.rule.full(now)
	}
	return l.rule.current(s, now)
}

// CanPay reports whether a request of this cost passes at once. s is current. A cost above the capacity never passes.
func (l *Limit) CanPay(s State, request Tokens) bool { return l.CanPayWithin(s, request, 0) }

// CanPayWithin reports whether a request of this cost passes that may wait: a bucket lends what it refills in maxWait, in whole
// ticks. Limits of other kinds lend nothing. s is current.
func (l *Limit) CanPayWithin(s State, request Tokens, maxWait time.Duration) bool {
	cost := l.CostOf(request)
	return cost == 0 || l.rule.canPay(s, cost, maxWait)
}

// OwesMost reports whether a state, which is current, cannot go further below zero by a single token: a part of what was settled may
// not have been charged.
func (l *Limit) OwesMost(s State) bool { return !l.rule.canCharge(s, 1) }

// Remaining is how many whole tokens can be spent, rounded down; below zero after a charge. s is current.
func (l *Limit) Remaining(s State) Tokens { return l.rule.remaining(s) }

// RetryAfter is how long after now a lone client must wait until a request of this cost passes that may itself wait for maxWait:
// 0 if it does already, [Never] if it costs more than the capacity. Waiting exactly so long is enough, a microsecond less is
// not. For a limit of [KindConcurrency] it is a second, an estimate. s is current at now.
func (l *Limit) RetryAfter(s State, request Tokens, maxWait time.Duration, now Instant) time.Duration {
	switch cost := l.CostOf(request); {
	case cost > l.Capacity():
		return Never
	case l.CanPayWithin(s, request, maxWait):
		return 0
	default:
		return l.rule.untilPays(s, cost, maxWait, now)
	}
}

// Wait is how long after now a request must wait that has taken its cost from s: until nothing of a bucket is borrowed any
// more. It is 0 for limits of other kinds. s is current at now.
func (l *Limit) Wait(s State, now Instant) time.Duration {
	if b := l.TokenBucket(); b != nil {
		return b.until(s, 0, now)
	}
	return 0
}

// ResetAfter is how long after now nothing is spent any more: the bucket is full, or a new period begins; for permits, until the
// first of them expires. It is 0 if nothing is spent. s is current at now.
func (l *Limit) ResetAfter(s State, now Instant) time.Duration { return l.rule.untilFull(s, now) }

// NextToken is how long after now one more whole token can be spent than can now: for a quota, until the period's end.
// It is 0 if nothing is spent, and for permits. s is current at now.
func (l *Limit) NextToken(s State, now Instant) time.Duration { return l.rule.untilNext(s, now) }

// FullAt is the instant from which the client has spent nothing, and the state need not be stored.
func (l *Limit) FullAt(s State) Instant { return l.rule.fullAt(s) }

// Window is the time over which the limit counts: in which an empty bucket fills, rounded up to a tick, or the length of
// the quota's period at now. Permits have none: 0.
func (l *Limit) Window(now Instant) time.Duration { return l.rule.window(now) }

// Rate returns the tokens and the time in which they come, as configured: "5/s", "1000/day in Europe/Berlin".
func (l *Limit) Rate() string { return l.rule.rate() }

// String returns a readable form: "burst: 5/s, capacity 10", "daily: quota 1000/day, cost 1".
func (l *Limit) String() string {
	s := l.name + ": " + l.rule.String()
	if l.cost > 0 && l.kind != KindConcurrency {
		s += ", cost " + strconv.FormatInt(int64(l.cost), 10)
	}
	return s
}

// NameRule says which names [ValidName] accepts.
const NameRule = "must match [a-z0-9][a-z0-9_-]{0,62}"

// ValidName reports whether s can name a limit or a policy: [a-z0-9][a-z0-9_-]{0,62}.
func ValidName(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '_' && s[0] != '-' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}
