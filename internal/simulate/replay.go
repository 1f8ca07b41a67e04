package simulate

import (
	"cmp"
	"context"
	"errors"
	"io"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Side is one set of policies.
type Side struct {
	// Limiter decides by the policies, over a store of its own that reads the Replay's clock.
	Limiter ports.Limiter
	// Policies in the order of the file.
	Policies []*domain.Policy
}

// Replay is one run.
type Replay struct {
	// Log is what is replayed.
	Log ports.RequestLog
	// Clock is what the stores of the sides read.
	Clock *Clock
	// Sides are one or two.
	Sides []Side
	// Top is how many clients are named in each list.
	Top int
	// Decided, if set, is told every decision. What it is given is valid during the call alone.
	Decided func(side int, r *ports.LoggedRequest, a *ports.Answer)
}

const (
	maxRefusals = 5
	// checkEvery is after how many requests it is looked whether somebody wants the replay to end.
	checkEvery = 1024
)

// Run replays the log to its end. An error is the log's, or that of ctx.
func (r *Replay) Run(ctx context.Context) (*Result, error) {
	sides := make([]*side, len(r.Sides))
	for i := range r.Sides {
		sides[i] = newSide(&r.Sides[i])
	}
	diff := newChanges()
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
		r.Clock.set(request.At)
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
			s.refund(ctx, request)
		}
	}
}

func (r *Replay) result(sides []*side, diff *changes) *Result {
	result := &Result{}
	for _, s := range sides {
		result.Reports = append(result.Reports, s.finish(r.Top))
	}
	if len(sides) == 2 {
		result.Changes = diff.finish(result.Reports[0], result.Reports[1], r.Top)
	}
	return result
}

// side counts what one set of policies does.
type side struct {
	limiter ports.Limiter
	request [1]domain.Request
	answer  [1]ports.Answer
	back    [1]ports.Answer // of refunds

	tallies []*tally
	byName  map[string]*tally
	report  Report
	first   domain.Instant
	last    domain.Instant
}

func newSide(s *Side) *side {
	d := &side{limiter: s.Limiter, byName: make(map[string]*tally)}
	for _, p := range s.Policies {
		t := newTally(p)
		d.tallies = append(d.tallies, t)
		d.byName[p.Name] = t
	}
	return d
}

// decide has one request decided, and counts it.
func (s *side) decide(ctx context.Context, r *ports.LoggedRequest) {
	s.request[0] = r.Request
	s.limiter.DecideMany(ctx, s.request[:], s.answer[:])
	a := &s.answer[0]
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

// refund gives tokens back where the policy says so for the status that was answered: what a door does when it has
// the upstream's answer.
func (s *side) refund(ctx context.Context, r *ports.LoggedRequest) {
	a := &s.answer[0]
	if a.Err != nil || !a.Decision.RefundOn.Has(r.Status) {
		return
	}
	s.request[0] = a.Decision.Refund(r.Request)
	s.limiter.DecideMany(ctx, s.request[:], s.back[:])
	if t := s.byName[a.Decision.Policy]; t != nil && s.back[0].Err == nil {
		t.report.Refunded++
	}
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
