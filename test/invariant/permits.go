package invariant

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"time"
)

// Concurrency is a limit of Size permits at once, each valid for Lease after it was granted or renewed.
type Concurrency struct {
	Size  int
	Lease time.Duration
}

// PermitOp is an operation on a permit.
type PermitOp uint8

// The operations.
const (
	Grant PermitOp = iota
	Renew
	Release
	// Undo is a release whose answer does not say whether the permit was held.
	Undo
	// Count is an answer that is about no permit, such as a peek, a denial by another limit, or a renewal that another limit may
	// have refused.
	Count
)

// NoCount is what PermitRecord.Held is if the answer does not say it.
const NoCount = -1

// PermitRecord is one operation on one concurrency limit of one client, and its answer.
type PermitRecord struct {
	// NowUS is the store's time of the decision, in microseconds. For a lost operation it is any time of the store
	// that had passed when the operation was sent.
	NowUS int64
	ID    string // names the permit; no two grants have the same
	Op    PermitOp
	// Verdict says what became of the permit: Allowed means that it was granted, renewed, or held until it was released.
	Verdict Verdict
	// Held is how many permits the answer said were held after the operation, or NoCount.
	Held int
}

// PermitReport is the result of one or more checkers.
type PermitReport struct {
	Records, Granted, Denied, Lost int64

	// OverGranted counts grants while all permits were granted, unreleased and unexpired.
	OverGranted int64
	// FalseDenials counts denials while not all permits can have been held.
	FalseDenials int64
	// EndedEarly counts answers by which a permit was not held that was granted, unreleased and unexpired, or by which fewer were
	// held than that.
	EndedEarly int64
	// EndedLate counts answers by which a permit was held that was released, had expired, or was never granted, or by which more
	// were held than can have been.
	EndedLate int64
	// Gained is how many permits the store must have forgotten, at the least, to grant what it granted.
	Gained int64

	// First describes the first breach of each kind.
	First []PermitBreach
}

// PermitBreach is a record that breaks the invariant, with the records before it.
type PermitBreach struct {
	What   string
	Record PermitRecord
	// Certain permits were held, and at most Possible.
	Certain, Possible int
	Before            []PermitRecord
}

// PermitChecker replays one concurrency limit of one client. Create it with [NewPermitChecker]. It is not safe for concurrent
// use.
type PermitChecker struct {
	limit Concurrency
	// Ordered means that the records come in the order in which the store decided. The checker then does not sort them by
	// time, so the store's clock may be set back. A permit that had expired before that may be held or not.
	Ordered bool

	permits map[string]*permit
	latest  int64
	recent  []PermitRecord
	report  PermitReport
	// forgotten is how many of the certain permits the store must have forgotten. They expire before forgottenUntil, because the
	// store renews none that it has forgotten.
	forgotten      int
	forgottenUntil int64
}

// permit is one that may be held.
type permit struct {
	certain bool  // it is held until it expires
	expires int64 // by the answers
	// A lost operation of this kind may have run since, and may still run.
	grantLost, renewLost, endLost bool
}

// never is when a permit expires that has ended.
const never int64 = math.MinInt64

func (p *permit) mayBeHeld(now int64) bool { return p.grantLost || p.renewLost || p.expires > now }

// NewPermitChecker returns a checker of a limit of which no permit is held.
func NewPermitChecker(l Concurrency) (*PermitChecker, error) {
	if l.Size < 1 || l.Lease < time.Microsecond {
		return nil, errors.New("invariant: a concurrency limit needs permits, and a lease")
	}
	return &PermitChecker{limit: l, permits: map[string]*permit{}, latest: math.MinInt64}, nil
}

// Replay checks more records. Within one call they may come in any order; no record may be older than those of an earlier
// call. Records of the same microsecond count in the order that breaks the invariant least. Replay sorts the slice in place.
func (c *PermitChecker) Replay(records []PermitRecord) {
	if !c.Ordered {
		slices.SortStableFunc(records, func(a, b PermitRecord) int { return cmp.Compare(a.NowUS, b.NowUS) })
	}
	for len(records) > 0 {
		n := 1
		for !c.Ordered && n < len(records) && records[n].NowUS == records[0].NowUS {
			n++
		}
		c.replay(records[:n])
		records = records[n:]
	}
	maps.DeleteFunc(c.permits, func(_ string, p *permit) bool { return c.hasEnded(p, c.latest) }) // those that no release ended
}

// replay checks the records of one time.
func (c *PermitChecker) replay(records []PermitRecord) {
	now := records[0].NowUS
	c.latest = max(c.latest, now)
	possible, least := map[string]bool{}, map[string]bool{}
	for id, p := range c.permits {
		if p.mayBeHeld(now) {
			possible[id] = true
		}
		if c.isCertain(p) {
			least[id] = true
		}
	}
	for _, r := range records {
		switch {
		case r.Op == Grant && r.Verdict != Denied:
			possible[r.ID] = true
		case r.Op == Release, r.Op == Undo:
			delete(least, r.ID)
		}
	}
	inOrder(records)
	for _, r := range records {
		c.report.Records++
		c.apply(r, len(possible))
		if len(records) == 1 { // else the number is not known after each
			c.checkCount(r, c.count(c.isCertain), c.count(func(p *permit) bool { return p.mayBeHeld(now) }))
		} else {
			c.checkCount(r, len(least), len(possible))
		}
		c.recent = append(c.recent[max(0, len(c.recent)-maxRecent+1):], r)
	}
}

// inOrder sorts the records of one time: renewals and ends of older permits, then permits that are granted and may end at this
// time, one after the other, then other grants, and denials last.
func inOrder(records []PermitRecord) {
	type ops struct{ granted, ended bool }
	of := map[string]ops{}
	for _, r := range records {
		o := of[r.ID]
		o.granted = o.granted || r.Op == Grant && r.Verdict == Allowed
		o.ended = o.ended || (r.Op == Release || r.Op == Undo) && r.Verdict != Denied
		of[r.ID] = o
	}
	rank := func(r PermitRecord) int {
		switch o := of[r.ID]; {
		case r.Verdict == Denied || r.Op == Count:
			return 4
		case !o.granted:
			return 1
		case o.ended:
			return 2
		default:
			return 3
		}
	}
	slices.SortStableFunc(records, func(a, b PermitRecord) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Op, b.Op))
	})
}

func (c *PermitChecker) isCertain(p *permit) bool { return p.certain && p.expires > c.latest }

func (c *PermitChecker) count(which func(*permit) bool) (n int) {
	for _, p := range c.permits {
		if which(p) {
			n++
		}
	}
	return n
}

// apply checks one record. At most possible permits were held at its time.
func (c *PermitChecker) apply(r PermitRecord, possible int) {
	p := c.permits[r.ID]
	if p == nil {
		p = &permit{expires: never}
	}
	switch r.Verdict {
	case Lost:
		c.report.Lost++
		c.lost(r, p)
	case Denied:
		c.denied(r, p, possible)
	case Allowed:
		c.allowed(r, p)
	}
	if c.permits[r.ID] = p; c.hasEnded(p, r.NowUS) {
		delete(c.permits, r.ID)
	}
}

// hasEnded reports whether a permit need not be kept: it is not held, and will not be.
func (c *PermitChecker) hasEnded(p *permit, now int64) bool {
	return !p.endLost && !p.mayBeHeld(now) && (!c.Ordered || p.expires == never)
}

func (c *PermitChecker) lost(r PermitRecord, p *permit) {
	switch r.Op {
	case Grant:
		p.grantLost = true
	case Renew:
		p.renewLost = p.mayBeHeld(r.NowUS)
	case Release, Undo:
		p.certain, p.endLost = false, true
	case Count:
	}
}

func (c *PermitChecker) denied(r PermitRecord, p *permit, possible int) {
	switch {
	case r.Op == Count:
	case r.Op == Grant:
		c.report.Denied++
		if possible < c.limit.Size {
			c.breach("false denial", r, &c.report.FalseDenials)
		}
	case c.isCertain(p):
		c.breach("ended early", r, &c.report.EndedEarly)
		c.forgotten = max(0, c.forgotten-1)
		p.end()
	case !p.grantLost:
		p.end()
	}
}

func (c *PermitChecker) allowed(r PermitRecord, p *permit) {
	switch r.Op {
	case Grant:
		c.report.Granted++
		certain := c.count(c.isCertain)
		if certain >= c.limit.Size {
			c.breach("over-granted", r, &c.report.OverGranted)
		}
		c.gained(certain)
		c.extend(r, p)
	case Renew:
		if !p.mayBeHeld(r.NowUS) {
			c.breach("ended late", r, &c.report.EndedLate)
		}
		c.extend(r, p)
	case Release:
		if !p.mayBeHeld(r.NowUS) {
			c.breach("ended late", r, &c.report.EndedLate)
		}
		p.end()
	case Undo:
		if p.certain = false; !p.grantLost {
			p.end()
		}
	case Count:
	}
}

// gained counts the permits that the store must have forgotten before a grant, and that are not counted yet.
func (c *PermitChecker) gained(certain int) {
	if c.latest >= c.forgottenUntil {
		c.forgotten = 0
	}
	c.forgotten = min(c.forgotten, certain)
	if over := certain + 1 - c.limit.Size; over > c.forgotten {
		c.report.Gained += int64(over - c.forgotten)
		c.forgotten, c.forgottenUntil = over, c.latest+c.limit.Lease.Microseconds()
	}
}

// extend notes that a permit is held at the record's time.
func (c *PermitChecker) extend(r PermitRecord, p *permit) {
	p.grantLost, p.certain, p.expires = false, !p.endLost, r.NowUS+c.limit.Lease.Microseconds()
}

// end notes that a permit is not held any more, and that no grant of it can still run.
func (p *permit) end() { *p = permit{expires: never} }

func (c *PermitChecker) checkCount(r PermitRecord, certain, possible int) {
	switch {
	case r.Held == NoCount || r.Verdict == Lost:
	case r.Held < certain:
		c.breach("ended early", r, &c.report.EndedEarly)
	case r.Held > possible:
		c.breach("ended late", r, &c.report.EndedLate)
	}
}

// NoneInFlight declares that no lost operation can run after a time of the store.
func (c *PermitChecker) NoneInFlight(nowUS int64) {
	for _, p := range c.permits {
		if p.grantLost || p.renewLost { // it is held until then, at the most
			p.certain, p.expires = false, max(nowUS, c.latest)+c.limit.Lease.Microseconds()
		}
		p.grantLost, p.renewLost, p.endLost = false, false, false
	}
}

func (c *PermitChecker) breach(what string, r PermitRecord, count *int64) {
	*count++
	if !slices.ContainsFunc(c.report.First, func(b PermitBreach) bool { return b.What == what }) {
		c.report.First = append(c.report.First, PermitBreach{
			what, r, c.count(c.isCertain), c.count(func(p *permit) bool { return p.mayBeHeld(r.NowUS) }), slices.Clone(c.recent),
		})
	}
}

// Report returns the result so far.
func (c *PermitChecker) Report() PermitReport { return c.report }

// Add adds the counts of another report to r.
func (r *PermitReport) Add(o PermitReport) {
	r.Records += o.Records
	r.Granted += o.Granted
	r.Denied += o.Denied
	r.Lost += o.Lost
	r.OverGranted += o.OverGranted
	r.FalseDenials += o.FalseDenials
	r.EndedEarly += o.EndedEarly
	r.EndedLate += o.EndedLate
	r.Gained += o.Gained
	for _, b := range o.First {
		if !slices.ContainsFunc(r.First, func(mine PermitBreach) bool { return mine.What == b.What }) {
			r.First = append(r.First, b)
		}
	}
}
