package invariant

import (
	"cmp"
	"slices"
)

// Checker replays one limit of one client. Create it with [NewChecker] or [NewQuotaChecker]. It is not safe for
// concurrent use.
type Checker struct {
	rule rule
	full int64
	// Ordered means that the records come in the order in which the store decided. The Checker then does not sort
	// them by time, so the store's clock may be set back.
	Ordered bool

	started bool
	at      int64
	// byVerdict is what the bucket can hold according to the verdicts alone. byLevel also uses the reported levels.
	byVerdict, byLevel estimate
	open               []Record // denials whose span has not ended
	recent             []Record // the last records, for the report of a breach
	report             Report
	// The sums for the report, in units.
	overAdmitted, gained, doubleDebited int64
}

// rule is how the limits of one kind count.
type rule interface {
	unitsPerToken() int64
	full() int64
	// passed returns a level after the store's clock went from one time to another, which may be earlier.
	passed(level, from, to int64) int64
	// granted is passed by the verdicts alone: a level that was the invariant's at from becomes the invariant's at to.
	granted(level, from, to int64) int64
	// lent returns what a take may borrow that waits.
	lent(waitUS int64) int64
	// counts reports whether tokens that were taken at takenUS can still be given back or charged at nowUS.
	counts(takenUS, nowUS int64) bool
}

// estimate is what a bucket can hold, in units: level, less some of the lost takes, plus some of the lost refunds. Each
// lost operation may have run, or may still run.
type estimate struct{ level, takes, refunds int64 }

// Report is the result of one or more checkers. Tokens are whole, rounded up for each bucket.
type Report struct {
	Records, Admitted, Denied, Lost int64

	// Periods is the number of periods of quotas that the records were in.
	Periods int64

	// OverAdmitted is the number of tokens admitted beyond the invariant, according to the verdicts alone.
	OverAdmitted int64
	// Gained is the number of tokens that a bucket held without explanation: the store lost a debit, or added tokens.
	Gained int64
	// DoubleDebited is the number of tokens that were missing although no operation took them.
	DoubleDebited int64
	// FalseDenials counts denials by the store of costs that the bucket could pay. StaleDenials counts the same for
	// denials that were answered from an earlier state of the bucket (records with a span).
	FalseDenials, StaleDenials int64
	// WrongWaits counts takes whose wait is not the time in which the level that they left is back at zero.
	WrongWaits int64

	// First describes the first breach of each kind.
	First []Breach
}

// Breach is a record that breaks an invariant, with the records before it.
type Breach struct {
	What   string
	Record Record
	Level  int64 // the expected level, in units
	Before []Record
}

// NewChecker returns a checker of a bucket that starts full.
func NewChecker(l Limit) (*Checker, error) {
	if err := l.validate(); err != nil {
		return nil, err
	}
	return newChecker(&l), nil
}

func newChecker(r rule) *Checker {
	full := estimate{level: r.full()}
	return &Checker{rule: r, full: r.full(), byVerdict: full, byLevel: full}
}

// Replay checks more records. Within one call they may come in any order; no record may be older than those of an
// earlier call. Records of the same microsecond are ordered by falling level. Therefore a refund must not share its
// microsecond with another operation. Replay sorts the slice in place.
func (c *Checker) Replay(records []Record) {
	for i := range records {
		if r := &records[i]; r.TakenUS > 0 && r.Op != Take && !c.rule.counts(r.TakenUS, r.NowUS) {
			r.Cost = 0
		}
	}
	if !c.Ordered {
		slices.SortStableFunc(records, func(a, b Record) int {
			return cmp.Or(cmp.Compare(a.NowUS, b.NowUS), cmp.Compare(rank(a), rank(b)),
				cmp.Compare(b.Level, a.Level), cmp.Compare(change(b), change(a)))
		})
	}
	for _, r := range records {
		c.replay(r)
		c.recent = append(c.recent[max(0, len(c.recent)-maxRecent+1):], r)
	}
	if q, ok := c.rule.(*quotaRule); ok && !c.Ordered {
		q.forget(c.at)
	}
}

const maxRecent = 8

// rank orders records of the same microsecond: lost operations first, records without a level last.
func rank(r Record) int {
	switch {
	case r.Verdict == Lost:
		return 0
	case r.Level != NoLevel:
		return 1
	default:
		return 2
	}
}

// change returns 1 for an operation that changed the level, else 0.
func change(r Record) int {
	if r.Verdict == Allowed && r.Op != Peek && r.Cost > 0 {
		return 1
	}
	return 0
}

// after returns the level after an operation with an answer.
func (c *Checker) after(level int64, r Record) int64 {
	cost := r.Cost * c.rule.unitsPerToken()
	switch {
	case r.Verdict != Allowed || r.Op == Peek:
		return level
	case r.Op == Refund:
		return max(level, min(c.full, level+cost))
	default:
		return level - cost
	}
}

func (c *Checker) replay(r Record) {
	if !c.started {
		c.at, c.started = r.NowUS, true
	}
	if c.Ordered && !c.writes(r) {
		at, verdictLevel, level := c.at, c.byVerdict.level, c.byLevel.level
		defer func() { c.at, c.byVerdict.level, c.byLevel.level = at, verdictLevel, level }()
	}
	c.byVerdict.level = c.rule.granted(c.byVerdict.level, c.at, r.NowUS)
	c.byLevel.level = c.rule.passed(c.byLevel.level, c.at, r.NowUS)
	c.at = r.NowUS
	c.report.Records++
	switch r.Verdict {
	case Lost:
		c.report.Lost++
		cost := r.Cost * c.rule.unitsPerToken()
		c.byVerdict.add(r.Op, cost)
		c.byLevel.add(r.Op, cost)
		return
	case Denied:
		c.report.Denied++
		c.denied(r)
	case Allowed:
		if r.Op == Take && r.Cost > 0 {
			c.report.Admitted += r.Cost
			c.admitted(r)
			c.waited(r)
		}
	}
	c.byVerdict.level = c.after(c.byVerdict.level, r)
	c.byLevel.level = c.after(c.byLevel.level, r)
	if r.Level != NoLevel {
		c.compareLevel(r)
	}
	c.closeDenials(r.NowUS)
}

// add adds a lost operation.
func (e *estimate) add(op Op, cost int64) {
	switch op {
	case Peek:
	case Refund:
		e.refunds += cost
	case Take, Charge:
		e.takes += cost
	}
}

// writes reports whether the store wrote the bucket for an operation. It does if the operation changed the level, or if
// the clock went back since the last write. A clock that goes back loses what was refilled since the last write.
func (c *Checker) writes(r Record) bool {
	switch {
	case r.Verdict == Lost || r.Level == NoLevel || r.Op == Peek:
		return false
	case r.NowUS < c.at:
		return true
	case r.Op == Refund:
		return change(r) == 1 && c.rule.passed(c.byLevel.level, c.at, r.NowUS) < c.full
	default:
		return change(r) == 1
	}
}

// admitted checks that the bucket could pay, according to the verdicts. It adds the missing units to the estimate, so that
// a later record does not count them again.
func (c *Checker) admitted(r Record) {
	// Paid at its decision + its wait. By an exact wait, that is the same as a replay of all takes at these times.
	cost, v := r.Cost*c.rule.unitsPerToken()-c.rule.lent(r.WaitUS), &c.byVerdict
	if over := unexplained(cost-v.level, &v.refunds); over > 0 {
		c.breach("over-admitted", r, v.level)
		c.overAdmitted += over
	}
	v.level = max(v.level, cost)
}

// waited checks the wait of a take that was allowed, if its level is known: until then, nothing is borrowed any more.
func (c *Checker) waited(r Record) {
	if r.Level == NoLevel {
		return
	}
	if r.Level+c.rule.lent(r.WaitUS) < 0 || r.WaitUS > 0 && r.Level+c.rule.lent(r.WaitUS-1) >= 0 {
		c.breach("wrong wait", r, r.Level)
		c.report.WrongWaits++
	}
}

// unexplained returns the part of an amount that no lost operation explains. Those that explain it have run.
func unexplained(amount int64, lost *int64) int64 {
	explained := min(max(amount, 0), *lost)
	*lost -= explained
	return amount - explained
}

// compareLevel compares the reported level with the expected one. The reported level is the base from then on.
func (c *Checker) compareLevel(r Record) {
	e := &c.byLevel
	if gained := unexplained(r.Level-e.level, &e.refunds); gained > 0 {
		c.breach("gained", r, e.level)
		c.gained += gained
	}
	if missing := unexplained(e.level-r.Level, &e.takes); missing > 0 {
		c.breach("debited twice", r, e.level)
		c.doubleDebited += missing
	}
	e.level = r.Level
}

// denied checks a denial now, or keeps it open until its span is over.
func (c *Checker) denied(r Record) {
	cost := r.Cost * c.rule.unitsPerToken()
	if cost > c.full {
		return
	}
	cost -= c.rule.lent(r.WaitUS)
	switch {
	case r.Level != NoLevel:
		if r.Level >= cost {
			c.falseDenial(r)
		}
	case c.mayBeShort(cost):
	case r.SpanUS > 0:
		c.open = append(c.open, r)
	default:
		c.falseDenial(r)
	}
}

// mayBeShort reports whether the bucket may have held fewer than cost units.
func (c *Checker) mayBeShort(cost int64) bool {
	return c.byLevel.level-c.byLevel.takes < cost || c.byVerdict.level-c.byVerdict.takes < cost
}

// NoneInFlight declares that no lost operation can still run. Those without an effect so far never ran.
func (c *Checker) NoneInFlight() {
	c.byLevel.takes, c.byLevel.refunds = 0, 0
}

// closeDenials ends the open denials that proved correct, and counts those whose span is over as false.
func (c *Checker) closeDenials(now int64) {
	c.open = slices.DeleteFunc(c.open, func(r Record) bool {
		if now > r.NowUS+r.SpanUS {
			c.falseDenial(r)
			return true
		}
		return c.mayBeShort(r.Cost*c.rule.unitsPerToken() - c.rule.lent(r.WaitUS))
	})
}

func (c *Checker) falseDenial(r Record) {
	if r.SpanUS > 0 {
		c.breach("stale denial", r, c.byLevel.level)
		c.report.StaleDenials++
		return
	}
	c.breach("false denial", r, c.byLevel.level)
	c.report.FalseDenials++
}

func (c *Checker) breach(what string, r Record, level int64) {
	if !slices.ContainsFunc(c.report.First, func(b Breach) bool { return b.What == what }) {
		c.report.First = append(c.report.First, Breach{what, r, level, slices.Clone(c.recent)})
	}
}

// Report returns the result so far. Denials whose span has not ended count as false.
func (c *Checker) Report() Report {
	for _, r := range c.open {
		c.falseDenial(r)
	}
	c.open = c.open[:0]
	c.report.OverAdmitted = c.tokens(c.overAdmitted)
	c.report.Gained = c.tokens(c.gained)
	c.report.DoubleDebited = c.tokens(c.doubleDebited)
	if q, ok := c.rule.(*quotaRule); ok {
		c.report.Periods = q.periods()
	}
	return c.report
}

// tokens converts units to tokens, rounding up.
func (c *Checker) tokens(units int64) int64 {
	one := c.rule.unitsPerToken()
	return (units + one - 1) / one
}

// Add adds the counts of another report to r.
func (r *Report) Add(o Report) {
	r.Records += o.Records
	r.Admitted += o.Admitted
	r.Denied += o.Denied
	r.Lost += o.Lost
	r.Periods += o.Periods
	r.OverAdmitted += o.OverAdmitted
	r.Gained += o.Gained
	r.DoubleDebited += o.DoubleDebited
	r.FalseDenials += o.FalseDenials
	r.StaleDenials += o.StaleDenials
	r.WrongWaits += o.WrongWaits
	for _, b := range o.First {
		if !slices.ContainsFunc(r.First, func(mine Breach) bool { return mine.What == b.What }) {
			r.First = append(r.First, b)
		}
	}
}
