// Package simulate replays a log of requests through a limiter, in the log's own time. It reports which clients would have
// been denied, by which policy and when, and what a second set of policies would have decided differently.
//
// The decisions are those of a ports.Limiter, the same as in the service, with a store in memory that reads the [Clock]
// of the replay. So they are the decisions of the service under two assumptions: the store does not fail, and the clients
// would have sent the same requests.
//
// A log says neither what answers reported as their cost, nor what bodies estimated: a request costs the number of the policy's estimate,
// or one token; if its status is no success, it costs what the policy says of failed requests.
//
// Concurrency limits are not checked, since a log does not say how long requests took: each request ends before the next
// begins. A policy in shadow mode is counted as if it were enforced. The memory grows with the number of distinct clients, not
// with the number of requests.
package simulate

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Clock has the time of the request that is replayed. The zero value has the epoch. It is safe for concurrent use.
type Clock struct{ now atomic.Int64 }

// Now returns the time. Stores read it.
func (c *Clock) Now() domain.Instant { return domain.Instant(c.now.Load()) }

// Side is one set of policies to replay the log through.
type Side struct {
	// Limiter decides by the policies. Its store, which it does not share, reads the Replay's clock.
	Limiter ports.Limiter
	// Permits ends the permits that the Limiter grants.
	Permits ports.Permits
	// Policies in the order of the file.
	Policies []*policy.Policy
}

// Replay is the configuration of one replay.
type Replay struct {
	// Log has the requests.
	Log ports.RequestLog
	// Clock is read by the stores of the sides.
	Clock *Clock
	// Sides has one or two elements.
	Sides []Side
	// Top is the number of clients in each list.
	Top int
	// Decided, if set, is called with every decision. Its arguments are valid only during the call.
	Decided func(side int, r *ports.LoggedRequest, a *ports.Answer)
}

const (
	maxRefusals = 5
	// checkEvery is the number of requests between two checks of the context.
	checkEvery = 1024
)

// Run replays the log to its end. It returns an error of the log, or that of ctx.
func (r *Replay) Run(ctx context.Context) (*Result, error) {
	sides := make([]*side, len(r.Sides))
	for i := range r.Sides {
		sides[i] = newSide(&r.Sides[i])
	}
	diff := make(changes)
	for n := 0; ; n++ {
		if n%checkEvery == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		request, err := r.Log.Next()
		if errors.Is(err, io.EOF) {
			return r.result(sides, diff), nil
		}
		if err != nil {
			return nil, cmp.Or(ctx.Err(), err)
		}
		r.Clock.now.Store(int64(request.At))
		for i, s := range sides {
			s.decide(ctx, request)
			if r.Decided != nil {
				r.Decided(i, request, &s.answer[0])
			}
		}
		if len(sides) == 2 && sides[0].answer[0].Err == nil && sides[1].answer[0].Err == nil {
			diff.add(&sides[0].answer[0].Decision, &sides[1].answer[0].Decision)
		}
		for _, s := range sides {
			if err := s.end(ctx, request); err != nil {
				return nil, err
			}
		}
	}
}

func (r *Replay) result(sides []*side, diff changes) *Result {
	result := &Result{}
	for _, s := range sides {
		result.Reports = append(result.Reports, s.finish(r.Top))
	}
	if len(sides) == 2 {
		result.Changes = diff.finish(result.Reports[0], result.Reports[1], r.Top)
	}
	return result
}

// side replays the log through one set of policies, and counts the decisions.
type side struct {
	limiter ports.Limiter
	permits ports.Permits
	request [1]policy.Request
	answer  [1]ports.Answer
	back    [1]ports.Answer // to refunds
	first   domain.Instant
	last    domain.Instant

	tallies []*tally
	byName  map[string]*tally
	report  Report
}

func newSide(s *Side) *side {
	d := &side{limiter: s.Limiter, permits: s.Permits, byName: make(map[string]*tally)}
	for _, p := range s.Policies {
		t := newTally(p)
		d.tallies = append(d.tallies, t)
		d.byName[p.Name] = t
	}
	return d
}

// decide decides one request and counts it.
func (s *side) decide(ctx context.Context, r *ports.LoggedRequest) {
	s.request[0] = r.Request
	s.request[0].HoldsPermit, s.request[0].MaxWait = true, policy.MaxMaxWait
	s.limiter.DecideMany(ctx, s.request[:], s.answer[:])
	a := &s.answer[0]
	if errors.Is(a.Err, domain.ErrMissingKey) {
		s.report.MissingKey++
		return
	}
	if a.Err != nil {
		s.report.Refused++
		if len(s.report.Refusals) < maxRefusals {
			s.report.Refusals = append(s.report.Refusals, Refusal{r.Log, r.Line, a.Err.Error()})
		}
		return
	}
	if s.report.Requests == 0 {
		s.first = r.At
	}
	s.last = r.At
	s.report.add(a.Decision.Outcome)
	s.report.Series.add(r.At, passes(a.Decision.Outcome))
	if t := s.byName[a.Decision.Policy]; t != nil {
		t.add(r.At, &a.Decision)
	} else {
		s.report.Unlimited++
	}
}

// end ends a request. It returns its tokens if the policy refunds on the status of its answer, as the service does after the
// upstream's answer, else it settles the cost. It releases the permit.
func (s *side) end(ctx context.Context, r *ports.LoggedRequest) error {
	a := &s.answer[0]
	if a.Err != nil {
		return nil
	}
	actual := ports.Unsettled
	switch p := a.Decision.AppliedPolicy; {
	case a.Decision.RefundOn.Has(r.Status):
		s.request[0] = a.Decision.Refund(r.Request)
		s.limiter.DecideMany(ctx, s.request[:], s.back[:])
		if t := s.byName[a.Decision.Policy]; t != nil && s.back[0].Err == nil {
			t.report.Refunded++
		}
	case p != nil && !p.Cost.Actual.IsZero() && r.Status > 0 && r.Status/100 != 2:
		actual, _ = p.Cost.Settled(a.Decision.Cost, policy.Ending{Status: r.Status, Whole: true})
		if settling, needed := a.Decision.Settle(r.Request, actual); needed {
			s.request[0] = settling
			s.limiter.DecideMany(ctx, s.request[:], s.back[:])
		}
	}
	if a.Decision.Permit == "" {
		return nil
	}
	_, err := s.permits.Release(ctx, a.Decision.Permit, actual)
	return err
}

func (s *side) finish(top int) *Report {
	if s.report.Requests > 0 {
		s.report.From, s.report.To = s.first.Time(), s.last.Time()
	}
	s.report.Series.finish()
	s.report.Policies = make([]*PolicyReport, 0, len(s.tallies))
	for _, t := range s.tallies {
		s.report.Policies = append(s.report.Policies, t.finish(top))
	}
	return &s.report
}
