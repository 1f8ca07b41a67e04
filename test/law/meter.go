package law

import (
	"cmp"
	"slices"
)

// Meter plays one bucket again. Make it with [NewMeter]; not safe for concurrent use.
type Meter struct {
	limit Limit
	full  int64
	// Ordered says that the records come in the order in which the store decided, and are not to be sorted by its
	// time: its clock may have been set back.
	Ordered bool

	started bool
	at      int64
	// verdicts is what the bucket can hold by the verdicts alone, told by the levels that the answers told, too.
	verdicts, told estimate
	open           []Record // denials whose span has not ended
	recent         []Record // the last that were played, for whoever looks at a breach
	report         Report
	// Of the report, in units.
	overAdmitted, gained, doubled int64
}

// estimate is what a bucket can hold, in units: level, less any of the lost takes, more any of the lost refunds, which
// may have run or may yet run.
type estimate struct{ level, takes, refunds int64 }

// Report is what a meter, or many, found. The tokens are whole, rounded up per bucket.
type Report struct {
	Records, Admitted, Denied, Lost int64

	// OverAdmitted is how many tokens were admitted beyond the law, by the verdicts alone.
	OverAdmitted int64
	// Gained is how many tokens a bucket held that it cannot have had: what a store gave away, or forgot to debit.
	Gained int64
	// Doubled is how many tokens were missing that nothing took: what a store debited twice.
	Doubled int64
	// Unjust counts the denials of what the bucket could pay; UnjustRepeated those of them that another than the
	// store made, from what it had seen of it (records with a span).
	Unjust, UnjustRepeated int64

	// First describes the first breach of each kind.
	First []Breach
}

// Breach is a record that broke the law, and those before it.
type Breach struct {
	What   string
	Record Record
	Level  int64 // that the meter expected, in units
	Before []Record
}

// NewMeter makes a meter of a bucket that starts full.
func NewMeter(l Limit) (*Meter, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	full := estimate{level: l.full()}
	return &Meter{limit: l, full: l.full(), verdicts: full, told: full}, nil
}

// Play adds records. They may come in any order, but all that are later than some record of an earlier call must
// come after it. What was decided at one instant is told apart by the levels, which only fall then: so a refund must
// not have been decided at the same instant as another operation. The slice is sorted in place.
func (m *Meter) Play(records []Record) {
	if !m.Ordered {
		slices.SortStableFunc(records, func(a, b Record) int {
			return cmp.Or(cmp.Compare(a.NowUS, b.NowUS), cmp.Compare(rank(a), rank(b)),
				cmp.Compare(b.Level, a.Level), cmp.Compare(change(b), change(a)))
		})
	}
	for _, r := range records {
		m.one(r)
		if len(m.recent) == maxRecent {
			m.recent = append(m.recent[:0], m.recent[1:]...)
		}
		m.recent = append(m.recent, r)
	}
}

const maxRecent = 8

// rank puts what was lost before what was decided at the same instant, and repeated denials after it.
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

// change is 1 for what left a lower level than it found.
func change(r Record) int {
	if r.Verdict == Allowed && r.Op != Peek && r.Cost > 0 {
		return 1
	}
	return 0
}

// refilled is a level after so many microseconds.
func (m *Meter) refilled(level, elapsed int64) int64 {
	if elapsed <= 0 || level >= m.full {
		return level
	}
	if elapsed > (m.full-level)/m.limit.Refill {
		return m.full
	}
	return level + elapsed*m.limit.Refill
}

// after is a level after an operation that was carried out.
func (m *Meter) after(level int64, r Record) int64 {
	cost := r.Cost * m.limit.perUS()
	switch {
	case r.Verdict != Allowed || r.Op == Peek:
		return level
	case r.Op == Refund:
		return max(level, min(m.full, level+cost))
	default:
		return level - cost
	}
}

func (m *Meter) one(r Record) {
	if !m.started {
		m.at, m.started = r.NowUS, true
	}
	if m.Ordered && !m.writes(r) {
		at, verdicts, told := m.at, m.verdicts.level, m.told.level
		defer func() { m.at, m.verdicts.level, m.told.level = at, verdicts, told }()
	}
	elapsed := r.NowUS - m.at
	m.at = r.NowUS
	m.verdicts.level, m.told.level = m.refilled(m.verdicts.level, elapsed), m.refilled(m.told.level, elapsed)
	m.report.Records++
	switch r.Verdict {
	case Lost:
		m.report.Lost++
		cost := r.Cost * m.limit.perUS()
		m.verdicts.add(r.Op, cost)
		m.told.add(r.Op, cost)
		return
	case Denied:
		m.report.Denied++
		m.denied(r)
	case Allowed:
		if r.Op == Take && r.Cost > 0 {
			m.report.Admitted += r.Cost
			m.admitted(r)
		}
	}
	m.verdicts.level = m.after(m.verdicts.level, r)
	m.told.level = m.after(m.told.level, r)
	if r.Level != NoLevel {
		m.audit(r)
	}
	m.settle(r.NowUS)
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

// writes reports whether a store writes the bucket down for an operation: if it changes it, or if the clock was set back
// since it was written. What was refilled since then is lost when the clock is set back.
func (m *Meter) writes(r Record) bool {
	if r.Verdict == Lost || r.Level == NoLevel || r.Op == Peek {
		return false
	}
	return r.NowUS < m.at || change(r) == 1
}

// admitted looks whether the bucket could pay, by the verdicts. What was missing is given, so that it counts once.
func (m *Meter) admitted(r Record) {
	cost, v := r.Cost*m.limit.perUS(), &m.verdicts
	missing := cost - v.level
	if missing <= 0 {
		return
	}
	over := missing - min(missing, v.refunds)
	v.refunds -= missing - over
	if over > 0 {
		m.breach("over-admitted", r, v.level)
		m.overAdmitted += over
	}
	v.level = cost
}

// audit compares the level that an answer told with what the history explains, and believes it from then on.
func (m *Meter) audit(r Record) {
	switch t, diff := &m.told, r.Level-m.told.level; {
	case diff > 0:
		gained := diff - min(diff, t.refunds)
		t.refunds -= diff - gained
		if gained > 0 {
			m.breach("gained", r, t.level)
			m.gained += gained
		}
	case diff < 0:
		doubled := -diff - min(-diff, t.takes)
		t.takes -= -diff - doubled
		if doubled > 0 {
			m.breach("doubled", r, t.level)
			m.doubled += doubled
		}
	}
	m.told.level = r.Level
}

// denied judges a denial now, or keeps it open until its span is over.
func (m *Meter) denied(r Record) {
	cost := r.Cost * m.limit.perUS()
	switch {
	case r.Cost > m.limit.Capacity:
	case r.Level != NoLevel:
		if r.Level >= cost {
			m.unjust(r)
		}
	case m.poor(cost):
	case r.SpanUS > 0:
		m.open = append(m.open, r)
	default:
		m.unjust(r)
	}
}

// poor reports whether the bucket may not have had so many units.
func (m *Meter) poor(cost int64) bool {
	return m.told.level-m.told.takes < cost || m.verdicts.level-m.verdicts.takes < cost
}

// Settled says that no lost operation can still run: those that the bucket has not shown to have run did not.
func (m *Meter) Settled() {
	m.told.takes, m.told.refunds = 0, 0
}

// settle ends the open denials that have become just, or whose time is over.
func (m *Meter) settle(now int64) {
	m.open = slices.DeleteFunc(m.open, func(r Record) bool {
		switch {
		case now > r.NowUS+r.SpanUS:
			m.unjust(r)
			return true
		default:
			return m.poor(r.Cost * m.limit.perUS())
		}
	})
}

func (m *Meter) unjust(r Record) {
	if r.SpanUS > 0 {
		m.breach("repeated unjustly", r, m.told.level)
		m.report.UnjustRepeated++
		return
	}
	m.breach("unjust", r, m.told.level)
	m.report.Unjust++
}

func (m *Meter) breach(what string, r Record, level int64) {
	if !slices.ContainsFunc(m.report.First, func(b Breach) bool { return b.What == what }) {
		m.report.First = append(m.report.First, Breach{what, r, level, slices.Clone(m.recent)})
	}
}

// Report is what has been found up to now. Denials whose span has not ended count as unjust.
func (m *Meter) Report() Report {
	for _, r := range m.open {
		m.unjust(r)
	}
	m.open = m.open[:0]
	m.report.OverAdmitted = m.limit.Tokens(m.overAdmitted)
	m.report.Gained = m.limit.Tokens(m.gained)
	m.report.Doubled = m.limit.Tokens(m.doubled)
	return m.report
}

// Limit is the rule that the meter plays by.
func (m *Meter) Limit() Limit { return m.limit }

// Add joins two reports.
func (r *Report) Add(o Report) {
	r.Records += o.Records
	r.Admitted += o.Admitted
	r.Denied += o.Denied
	r.Lost += o.Lost
	r.OverAdmitted += o.OverAdmitted
	r.Gained += o.Gained
	r.Doubled += o.Doubled
	r.Unjust += o.Unjust
	r.UnjustRepeated += o.UnjustRepeated
	for _, b := range o.First {
		if !slices.ContainsFunc(r.First, func(mine Breach) bool { return mine.What == b.What }) {
			r.First = append(r.First, b)
		}
	}
}
