package domain

import (
	"fmt"
	"strconv"
	"time"
)

// Op is an operation on a bucket group. The zero value is OpTake.
type Op uint8

// The operations. Their numbers are part of the script's input and must not change.
const (
	// OpTake spends the cost from every limit of the group, or from none. A cost of 0 is OpPeek.
	OpTake Op = iota
	// OpPeek reads the states and changes nothing.
	OpPeek
	// OpRefund gives tokens back, but never more than are spent. It leaves limits with a cost of their own alone.
	OpRefund
	// OpCharge spends unconditionally. A level may go below zero, within the bounds of [ErrDebtExceeded]. It leaves limits
	// with a cost of their own alone.
	OpCharge
	// OpReset deletes the states: nothing is spent any more. It ends no permit.
	OpReset
	// OpUndo gives back what a take of this cost took: as OpRefund, and from limits with a cost of their own that cost. It ends
	// the take's permit.
	OpUndo
	// OpRelease ends a permit and, if it was held, settles the cost: a positive cost is charged, down to the largest debt, a
	// negative one refunded. Limits with a cost of their own are left alone.
	OpRelease
	// OpRenew gives a permit a new lease from now, if it is held of every limit of the group.
	OpRenew
	// OpList is OpPeek, and lists the permits.
	OpList
	// OpSettle settles a cost as OpRelease does, for a take that holds no permit: it is never refused.
	OpSettle
)

// String returns the operation's name.
func (o Op) String() string {
	names := [...]string{"take", "peek", "refund", "charge", "reset", "undo", "release", "renew", "list", "settle"}
	if int(o) < len(names) {
		return names[o]
	}
	return "op(" + strconv.Itoa(int(o)) + ")"
}

// CheckCost refuses a cost that is out of range for the operation: above [MaxCost], below 0, or 0 for a refund, a charge or an
// undo. That of a release or a settling may be negative, down to -MaxCost. Operations that only read or reset have none, and accept any.
func (o Op) CheckCost(cost Tokens) error {
	least := Tokens(0)
	switch o {
	case OpRefund, OpCharge, OpUndo:
		least = 1
	case OpRelease, OpSettle:
		least = -MaxCost
	case OpPeek, OpReset, OpRenew, OpList:
		return nil
	case OpTake:
	}
	if cost < least || cost > MaxCost {
		return &FieldError{
			ErrInvalidRequest, "cost", strconv.FormatInt(int64(cost), 10),
			fmt.Sprintf("must be from %d to %d", least, MaxCost),
		}
	}
	return nil
}

// MayGiveBack reports false for operations after which a client has certainly no more tokens or permits than before.
func (o Op) MayGiveBack() bool {
	switch o {
	case OpTake, OpPeek, OpRenew, OpList:
		return false
	default:
		return true
	}
}

// NeedsPermit reports whether the operation is about a permit, if its group has a limit of [KindConcurrency].
func (o Op) NeedsPermit(cost Tokens) bool {
	switch o {
	case OpTake:
		return cost > 0
	case OpUndo, OpRelease, OpRenew:
		return true
	default:
		return false
	}
}

// Verdict is the answer of one bucket group. The zero value denies. The numbers are part of the script's reply.
type Verdict uint8

// The verdicts.
const (
	// Denied means that at least one limit has less left than the cost, or that the permit of a release or a renewal is not held.
	// Nothing was spent.
	Denied Verdict = iota
	// Allowed means that the operation was carried out on every limit of the group.
	Allowed
	// DebtExceeded means that a charge was refused; see [ErrDebtExceeded]. Nothing was spent.
	DebtExceeded
)

// Operation is what is done to one bucket group. The zero value peeks.
type Operation struct {
	Op Op
	// Cost in tokens; see [Op.CheckCost].
	Cost Tokens
	// TakenAt is when the tokens of a refund, a charge, an undo, a release or a settling were taken, by this store's clock; 0 means now.
	// What was taken before a quota's current period changes nothing in it. Other operations ignore it.
	TakenAt Instant
	// MaxWait is how long a take may wait; see [Limit.CanPayWithin]. Other operations ignore it.
	MaxWait time.Duration
	// Permit is the ID of the permit that a take adds to the limits of [KindConcurrency], and that an undo, a release or a
	// renewal is about; see [ValidPermitID]. Other operations ignore it.
	Permit string
}

// Apply carries out an operation on one bucket group, in place: on every state or on none.
//
// On entry states[i] is the stored state of limits[i], zero if none is stored. On return it is the state at now,
// after the operation. The store saves the states only if write is true. Peeks, lists and renewals do not write. Denials and
// refusals write only if a state's time is ahead of now: its time then becomes now, whatever the verdict. After OpReset the
// store deletes the states.
//
// permits[i] are the permits of limits[i] if that is of [KindConcurrency], else nil; permits may be nil if no limit is.
// Apply changes them itself; the states and write say nothing about what is to be stored of them.
func Apply(op Operation, limits []Limit, states []State, permits []*Permits, now Instant) (verdict Verdict, write bool) {
	if op.Op == OpTake && op.Cost == 0 {
		op.Op = OpPeek
	}
	held := op.endPermits(states, permits, now)
	ahead := false
	for i := range limits {
		if op.Op == OpReset && limits[i].kind != KindConcurrency {
			states[i] = State{}
		}
		at := states[i].At
		states[i] = limits[i].Current(states[i], now)
		ahead = ahead || states[i].At < at && at > now
	}
	if op.TakenAt == 0 {
		op.TakenAt = now
	}
	switch op.Op {
	case OpTake:
		verdict = op.take(limits, states, permits, now)
		return verdict, ahead || verdict == Allowed
	case OpCharge:
		verdict, write = op.charge(limits, states, now)
		return verdict, ahead || write
	case OpRefund, OpUndo:
		return Allowed, op.refund(limits, states, now) || ahead
	case OpRelease:
		if !held {
			return Denied, ahead
		}
		return Allowed, op.settle(limits, states, now) || ahead
	case OpSettle:
		return Allowed, op.settle(limits, states, now) || ahead
	case OpRenew:
		if !held {
			return Denied, false
		}
		op.renew(limits, states, permits, now)
		return Allowed, false
	case OpReset:
		return Allowed, true
	case OpPeek, OpList:
		return Allowed, false
	default:
		panic("domain: unknown " + op.Op.String())
	}
}

// endPermits ends the permit of an undo or a release, and sets the states of the limits that have permits. It reports whether
// the permit was held: of any limit for a release, of every limit for a renewal.
func (o *Operation) endPermits(states []State, permits []*Permits, now Instant) (held bool) {
	held = o.Op == OpRenew
	for i, p := range permits {
		if p == nil {
			continue
		}
		switch o.Op {
		case OpUndo, OpRelease:
			held = p.end(o.Permit, now) || held
		case OpRenew:
			held = p.held(o.Permit, now) && held
		default:
		}
		states[i] = p.state(now)
	}
	return held
}

func (o *Operation) take(limits []Limit, states []State, permits []*Permits, now Instant) Verdict {
	for i := range limits {
		if !limits[i].CanPayWithin(states[i], o.Cost, o.MaxWait) {
			return Denied
		}
	}
	for i := range limits {
		states[i] = limits[i].rule.spend(states[i], limits[i].CostOf(o.Cost), now)
	}
	o.renew(limits, states, permits, now)
	return Allowed
}

// renew adds the permit, or gives it a new lease.
func (o *Operation) renew(limits []Limit, states []State, permits []*Permits, now Instant) {
	for i, p := range permits {
		if p != nil {
			p.set(o.Permit, now.Add(limits[i].Concurrency().lease))
			states[i] = p.state(now)
		}
	}
}

// changedBy reports whether a refund, a charge, an undo, a release or a settling of tokens taken at takenAt changes the limit's state.
func (l *Limit) changedBy(op Op, takenAt, now Instant) bool {
	return (l.cost == 0 || op == OpUndo) && l.rule.counts(takenAt, now)
}

// charge also reports whether a state changed.
func (o *Operation) charge(limits []Limit, states []State, now Instant) (verdict Verdict, changed bool) {
	for i := range limits {
		if l := &limits[i]; l.changedBy(o.Op, o.TakenAt, now) && !l.rule.canCharge(states[i], o.Cost) {
			return DebtExceeded, false
		}
	}
	for i := range limits {
		if l := &limits[i]; l.changedBy(o.Op, o.TakenAt, now) {
			states[i], changed = l.rule.spend(states[i], o.Cost, now), true
		}
	}
	return Allowed, changed
}

// refund reports whether a state changed.
func (o *Operation) refund(limits []Limit, states []State, now Instant) (changed bool) {
	for i := range limits {
		l := &limits[i]
		if !l.changedBy(o.Op, o.TakenAt, now) {
			continue
		}
		before := states[i]
		states[i] = l.rule.refund(before, l.CostOf(o.Cost), now)
		changed = changed || states[i] != before
	}
	return changed
}

// settle charges or refunds the cost of a release or a settling, and reports whether a state changed. A limit that cannot be
// charged so much gets its largest debt: the tokens are spent, and a refusal would leave them free.
func (o *Operation) settle(limits []Limit, states []State, now Instant) (changed bool) {
	if o.Cost <= 0 {
		refund := *o
		refund.Cost = -o.Cost
		return o.Cost < 0 && refund.refund(limits, states, now)
	}
	for i := range limits {
		l := &limits[i]
		if !l.changedBy(o.Op, o.TakenAt, now) {
			continue
		}
		if l.rule.canCharge(states[i], o.Cost) {
			states[i] = l.rule.spend(states[i], o.Cost, now)
		} else {
			states[i] = l.rule.mostDebt(states[i], now)
		}
		changed = true
	}
	return changed
}
