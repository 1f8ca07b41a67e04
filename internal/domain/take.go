package domain

import (
	"fmt"
	"strconv"
)

// Op is what is done to a bucket group. The zero value takes.
type Op uint8

// The operations. Their numbers are part of the script's input and must not change.
const (
	// OpTake spends the cost from every bucket of the group, or from none. A cost of 0 is OpPeek.
	OpTake Op = iota
	// OpPeek looks and writes nothing.
	OpPeek
	// OpRefund gives tokens back, never above the capacity.
	OpRefund
	// OpCharge spends unconditionally, below zero if need be, within the bounds of [ErrDebtExceeded].
	OpCharge
	// OpReset forgets the buckets, so that they are full.
	OpReset
)

// String returns the operation's name.
func (o Op) String() string {
	names := [...]string{"take", "peek", "refund", "charge", "reset"}
	if int(o) < len(names) {
		return names[o]
	}
	return "op(" + strconv.Itoa(int(o)) + ")"
}

// CheckCost refuses a cost that op can not have: negative, above [MaxCost], or 0 for a refund or a charge.
func (o Op) CheckCost(cost Tokens) error {
	least := Tokens(0)
	if o == OpRefund || o == OpCharge {
		least = 1
	}
	if cost < least || cost > MaxCost {
		return &FieldError{
			ErrInvalidRequest, "cost", strconv.FormatInt(int64(cost), 10),
			fmt.Sprintf("must be from %d to %d", least, MaxCost),
		}
	}
	return nil
}

// Verdict is the answer of one bucket group. The zero value denies. The numbers are part of the script's reply.
type Verdict uint8

// The verdicts.
const (
	// Denied means that at least one bucket could not pay; nothing was spent.
	Denied Verdict = iota
	// Allowed means that the operation was carried out on every bucket of the group.
	Allowed
	// DebtExceeded means that a charge was refused, see [ErrDebtExceeded]; nothing was spent.
	DebtExceeded
)

// Apply decides op for one bucket group and carries it out in place: on every bucket or on none.
//
// On entry buckets[i] is the stored state of limits[i], zero if there is none; on return it is the state at now,
// after the operation. Unless write is set the store must keep what it has: peeks, denials and refusals write
// nothing, except that a bucket whose time lies ahead of now is brought back, whatever the verdict. After
// OpReset the store forgets the buckets instead of writing them. The cost must have passed [Op.CheckCost].
func Apply(op Op, cost Tokens, limits []Limit, buckets []Bucket, now Instant) (verdict Verdict, write bool) {
	if op == OpTake && cost == 0 {
		op = OpPeek
	}
	ahead := false
	for i := range limits {
		if op == OpReset {
			buckets[i] = Bucket{}
		}
		ahead = ahead || buckets[i].At > now
		buckets[i] = limits[i].Seen(buckets[i], now)
	}
	switch op {
	case OpTake:
		verdict = take(cost, limits, buckets)
		return verdict, ahead || verdict == Allowed
	case OpCharge:
		verdict = charge(cost, limits, buckets)
		return verdict, ahead || verdict == Allowed
	case OpRefund:
		return Allowed, refund(cost, limits, buckets) || ahead
	case OpReset:
		return Allowed, true
	case OpPeek:
		return Allowed, false
	default:
		panic("domain: unknown " + op.String())
	}
}

func take(cost Tokens, limits []Limit, buckets []Bucket) Verdict {
	for i := range limits {
		if !limits[i].Affords(buckets[i], cost) {
			return Denied
		}
	}
	for i := range limits {
		buckets[i].Credits -= Credits(cost) * limits[i].tokenCredits
	}
	return Allowed
}

func charge(cost Tokens, limits []Limit, buckets []Bucket) Verdict {
	for i := range limits {
		l := &limits[i]
		// Compared as a quotient: cost * p may pass 2^63.
		if int64(cost) > floorDiv(int64(buckets[i].Credits+l.maxDebt), int64(l.tokenCredits)) {
			return DebtExceeded
		}
	}
	for i := range limits {
		buckets[i].Credits -= Credits(cost) * limits[i].tokenCredits
	}
	return Allowed
}

// refund reports whether any level rose.
func refund(cost Tokens, limits []Limit, buckets []Bucket) (rose bool) {
	for i := range limits {
		l, b := &limits[i], &buckets[i]
		if b.Credits >= l.full {
			continue
		}
		rose = true
		// Compared as a quotient: cost * p may pass 2^63.
		if int64(cost) >= ceilDiv(int64(l.full-b.Credits), int64(l.tokenCredits)) {
			b.Credits = l.full
		} else {
			b.Credits += Credits(cost) * l.tokenCredits
		}
	}
	return rose
}
