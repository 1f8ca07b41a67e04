package simulate

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// tally counts the decisions of one policy.
type tally struct {
	report PolicyReport
	// clients[index[name]] is the client of a name. With values in the map, each request would need two lookups.
	index   map[string]int32
	clients []client
	minute  minute
	busiest minute
	worst   minute
	first   domain.Instant // first denial
	last    domain.Instant // last denial
}

// client is one client under one policy.
type client struct {
	name             string
	requests, denied int
	first, last      domain.Instant // first and last denial
}

// minute counts the requests of one minute.
type minute struct {
	start            domain.Instant
	requests, denied int
}

const microsPerMinute = 60_000_000

func newTally(p *policy.Policy) *tally {
	t := &tally{index: make(map[string]int32)}
	t.report.Name, t.report.Mode = p.Name, p.Mode.String()
	t.report.Limits = make([]LimitReport, len(p.Limits))
	for i := range p.Limits {
		t.report.Limits[i].Name = p.Limits[i].Name()
		t.report.Limits[i].NotChecked = p.Limits[i].Kind() == domain.KindConcurrency
	}
	return t
}

// add counts one decision.
func (t *tally) add(at domain.Instant, d *decision.Decision) {
	passed := passes(d.Outcome)
	t.report.add(d.Outcome)
	if d.UsedFallbackKey {
		t.report.KeyMissing++
	}
	if d.Wait > 0 {
		t.report.Waited++
		t.report.LongestWaitMS = max(t.report.LongestWaitMS, int64((d.Wait+time.Millisecond-1)/time.Millisecond))
	}
	for i := range d.Limits {
		if s := &d.Limits[i]; !s.Allowed && !s.LevelUnknown {
			t.report.Limits[i].Denied++
		}
	}
	if start := floor(at, microsPerMinute); start != t.minute.start {
		t.endMinute()
		t.minute = minute{start: start}
	}
	t.minute.requests++
	c := t.client(d.Client)
	c.requests++
	if passed {
		return
	}
	t.minute.denied++
	if c.denied++; c.denied == 1 {
		c.first = at
		t.report.ClientsDenied++
	}
	if t.report.Denied+t.report.Blocked == 1 {
		t.first = at
	}
	c.last, t.last = at, at
}

func (t *tally) client(name string) *client {
	i, known := t.index[name]
	if !known {
		i = int32(len(t.clients))
		name = strings.Clone(name) // it may be part of a longer text
		t.index[name] = i
		t.clients = append(t.clients, client{name: name})
	}
	return &t.clients[i]
}

func (t *tally) endMinute() {
	if t.minute.requests > t.busiest.requests {
		t.busiest = t.minute
	}
	if t.minute.denied > t.worst.denied {
		t.worst = t.minute
	}
}

// finish returns the report, which names the top clients.
func (t *tally) finish(top int) *PolicyReport {
	t.endMinute()
	r := &t.report
	r.Share = r.DeniedShare()
	r.Clients = len(t.clients)
	r.BusiestMinute, r.WorstMinute = t.busiest.report(), t.worst.report()
	if r.ClientsDenied == 0 {
		return r
	}
	r.FirstDenied, r.LastDenied = t.first.Time(), t.last.Time()
	t.clients = slices.DeleteFunc(t.clients, func(c client) bool { return c.denied == 0 })
	slices.SortFunc(t.clients, func(a, b client) int {
		return cmp.Or(cmp.Compare(b.denied, a.denied), cmp.Compare(b.requests, a.requests), cmp.Compare(a.name, b.name))
	})
	for _, c := range t.clients[:min(top, len(t.clients))] {
		r.Worst = append(r.Worst, ClientReport{
			Client: c.name, Requests: c.requests, Denied: c.denied, First: c.first.Time(), Last: c.last.Time(),
		})
	}
	return r
}

func (m minute) report() Minute {
	if m.requests == 0 {
		return Minute{}
	}
	return Minute{Start: m.start.Time(), Requests: m.requests, Denied: m.denied}
}
