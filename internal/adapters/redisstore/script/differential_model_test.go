package script_test

import (
	"fmt"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The model of the differential test: it applies domain, and stores as a store should.

// fieldOf is the field of a Hash that holds the limit.
func fieldOf(l *domain.Limit) string { return string(l.Kind()) + ":" + l.Name() }

// storedText is what a field holds, without the cached expiry.
func storedText(field string, s domain.State) string {
	if field[0] == 'q' {
		return fmt.Sprintf("%d:%d", s.Amount, s.At)
	}
	return fmt.Sprintf("%d:%d:%d", s.Amount, s.At, s.TokenCredits)
}

// apply is the model of one run, which was sent the periods at the time known. It decides one request after the other.
func (d *differential) apply(run *modelRun, known domain.Instant) []ports.TakeResult {
	reqs, first := run.reqs, make(map[*script.Group]bool)
	for _, g := range run.sent.Groups() {
		first[g] = true
	}
	want := make([]ports.TakeResult, len(reqs))
	touched, refused := make(map[clientkey.BucketKey]bool), make(map[clientkey.BucketKey]bool)
	for i := range reqs {
		req := &reqs[i]
		if m := d.model[req.Key]; m != nil && first[run.asked[i]] {
			m.groupsMS = m.earliestMS
		}
		d.count("same key twice", touched[req.Key])
		touched[req.Key] = true
		d.count("wrong period before", refused[req.Key])
		if refused[req.Key] = refused[req.Key] || d.wrongPeriod(req, known); refused[req.Key] {
			d.count("wrong period", true)
			want[i] = ports.TakeResult{Err: script.ErrWrongPeriod, Now: d.now}
			continue
		}
		states, permits := d.stored(req), d.held(req)
		verdict, write := domain.Apply(req.Operation(), req.Limits, states, permits, d.now)
		d.storePermits(req, verdict)
		switch {
		case req.Op == domain.OpReset:
			d.forget(req)
		case write:
			d.store(req, states)
		}
		want[i] = ports.TakeResult{Verdict: verdict, Now: d.now, States: states, Permits: d.listed(req, permits)}
		d.observe(req, verdict, states)
	}
	return want
}

// wrongPeriod reports whether now is in neither period of a quota, as of the time known.
func (d *differential) wrongPeriod(req *ports.TakeRequest, known domain.Instant) (wrong bool) {
	for i := range req.Limits {
		if q := req.Limits[i].Quota(); q != nil {
			start, end, nextEnd := q.Periods().At(known)
			wrong = wrong || d.now < start || d.now >= nextEnd
			d.count("next period", d.now >= end && d.now < nextEnd)
		}
	}
	return wrong
}

func (d *differential) stored(req *ports.TakeRequest) []domain.State {
	states := make([]domain.State, len(req.Limits))
	m := d.model[req.Key]
	if m == nil {
		return states
	}
	for i := range req.Limits {
		l := &req.Limits[i]
		if l.Concurrency() != nil {
			continue
		}
		s, ok := m.states[fieldOf(l)]
		states[i] = s
		d.count("limit joined", !ok)
		d.count("clock ahead of bucket", ok && s.At > d.now)
		if q := l.Quota(); q != nil {
			start, _, _ := q.Periods().At(d.now)
			d.count("period over", ok && s.At < start)
			writer := m.writers[fieldOf(l)]
			d.count("period changed", ok && writer.Quota().Periods().String() != q.Periods().String())
		} else {
			d.count("limit changed", ok && s.TokenCredits != l.TokenBucket().TokenCredits())
		}
	}
	return states
}

// inHash returns the limits that are stored in the Hash, and their states.
func inHash(limits []domain.Limit, states []domain.State) (l []domain.Limit, s []domain.State) {
	for i := range limits {
		if limits[i].Concurrency() == nil {
			l, s = append(l, limits[i]), append(s, states[i])
		}
	}
	return l, s
}

// store keeps the states. The expiry of a Hash rises only.
func (d *differential) store(req *ports.TakeRequest, states []domain.State) {
	limits, states := inHash(req.Limits, states)
	if len(limits) == 0 {
		return
	}
	m := d.model[req.Key]
	if m == nil {
		m = &modelHash{states: make(map[string]domain.State), writers: make(map[string]domain.Limit)}
		d.model[req.Key] = m
	}
	for i := range states {
		f := fieldOf(&limits[i])
		m.states[f], m.writers[f] = states[i], limits[i]
	}
	earliest, latest := expiryBounds(limits, states, d.now)
	m.earliestMS = m.groupsMS           // of the requests of a group only the last state is stored
	if fullAt(limits, states) > d.now { // else nothing is left to keep
		m.earliestMS = max(m.earliestMS, earliest)
	}
	m.latestMS = max(m.latestMS, latest)
}

func (d *differential) forget(req *ports.TakeRequest) {
	m := d.model[req.Key]
	if m == nil {
		return
	}
	for i := range req.Limits {
		delete(m.states, fieldOf(&req.Limits[i]))
		delete(m.writers, fieldOf(&req.Limits[i]))
	}
	if len(m.states) == 0 {
		delete(d.model, req.Key)
	}
}

func (d *differential) count(what string, happened bool) {
	if happened {
		d.seen[what]++
	}
}

func (d *differential) observe(req *ports.TakeRequest, verdict domain.Verdict, states []domain.State) {
	d.seen[[]string{"denied", "allowed", "debt exceeded"}[verdict]]++
	d.seen[req.Op.String()]++
	quotas := 0
	for i := range states {
		l := &req.Limits[i]
		own := l.Cost() > 0
		if l.Concurrency() != nil {
			d.observePermits(req, states[i], verdict)
			continue
		}
		d.count("own cost", own && req.Op == domain.OpTake)
		d.count("own cost undone", own && req.Op == domain.OpUndo)
		d.count("own cost left alone", own && (req.Op == domain.OpRefund || req.Op == domain.OpCharge || req.Op == domain.OpRelease))
		d.count("cost above capacity", req.Op == domain.OpTake && l.CostOf(req.Cost) > l.Capacity())
		if q := l.Quota(); q != nil {
			quotas++
			d.observeQuota(req, q, states[i])
			continue
		}
		d.count("below zero", states[i].Amount < 0)
		d.count("waits", req.Op == domain.OpTake && verdict == domain.Allowed && l.Wait(states[i], d.now) > 0)
		d.count("denied, though it may wait", req.Op == domain.OpTake && verdict == domain.Denied && req.MaxWait > 0)
		d.count("near 2^52", max(states[i].Amount, -states[i].Amount) > domain.MaxCredits-domain.MaxCredits/1024)
		ms := l.TokenBucket().TickMicros() == 1000
		d.count("ticks of 1 ms", ms)
		d.count("bound of 100 years", ms && len(states) == 1 && verdict == domain.DebtExceeded && l.TokenBucket().TickCredits() < 1000)
	}
	d.count("quota", quotas > 0)
	d.count("both kinds in a group", quotas > 0 && quotas < len(states))
	hashed, _ := inHash(req.Limits, states)
	d.count("permits alone", len(hashed) == 0)
	d.count("permits and others", len(hashed) > 0 && len(hashed) < len(states))
	d.count("two sets of permits", len(hashed) < len(states)-1)
	if req.Op == domain.OpRelease || req.Op == domain.OpRenew {
		d.seen[req.Op.String()+", "+[]string{"not held", "held"}[verdict]]++
	}
}

func (d *differential) observeQuota(req *ports.TakeRequest, q *domain.Quota, s domain.State) {
	start, _, _ := q.Periods().At(d.now)
	backdated := req.TakenAt > 0 && (req.Op == domain.OpRefund || req.Op == domain.OpCharge || req.Op == domain.OpUndo)
	d.count("taken in an earlier period", backdated && req.TakenAt < start && s.Amount > 0)
	d.count("quota near its largest debt", req.Op == domain.OpCharge && s.Amount > domain.MaxCredits)
}
