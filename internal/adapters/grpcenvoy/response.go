package grpcenvoy

import (
	"math"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
	"github.com/velocity-limiter/velocity/internal/domain"
)

// response says what was decided: over the limit if any descriptor is.
func (c *call) response() *rlsv3.RateLimitResponse {
	r := &rlsv3.RateLimitResponse{
		OverallCode: rlsv3.RateLimitResponse_OK,
		Statuses:    make([]*rlsv3.RateLimitResponse_DescriptorStatus, len(c.items)),
	}
	var most *domain.Decision
	for i := range c.items {
		status := c.status(&c.items[i])
		r.Statuses[i] = status
		if status.Code == rlsv3.RateLimitResponse_OVER_LIMIT {
			r.OverallCode = status.Code
		}
		if c.items[i].kind == byLimiter {
			most = bindingMore(most, c.decision(&c.items[i]))
		}
	}
	if most != nil {
		r.ResponseHeadersToAdd = headers(most)
	}
	return r
}

// bindingMore returns the decision whose most constraining limit binds more.
func bindingMore(a, b *domain.Decision) *domain.Decision {
	if a == nil {
		return b
	}
	ofA, ofB := a.Constraining(), b.Constraining()
	switch {
	case ofA == nil, ofB != nil && ofB.BindsMoreThan(ofA):
		return b
	default:
		return a
	}
}

// headers are made in two allocations, as every answer has them: one for the messages, one for all of their values.
func headers(d *domain.Decision) []*corev3.HeaderValue {
	const most = 8
	var (
		room, values [256]byte
		ends         [most]int
		all          = values[:0]
		n            int
	)
	made := new(struct {
		fields [most]corev3.HeaderValue
		list   [most]*corev3.HeaderValue
	})
	d.HeaderFields(room[:0], func(name string, value []byte) {
		all = append(all, value...)
		made.fields[n].Key, made.list[n], ends[n] = name, &made.fields[n], len(all)
		n++
	})
	text, start := string(all), 0
	for i := range n {
		made.fields[i].Value, start = text[start:ends[i]], ends[i]
	}
	return made.list[:n]
}

func (c *call) status(it *item) *rlsv3.RateLimitResponse_DescriptorStatus {
	made := new(struct { // in one allocation
		status rlsv3.RateLimitResponse_DescriptorStatus
		limit  rlsv3.RateLimitResponse_RateLimit
		reset  durationpb.Duration
	})
	s := &made.status
	s.Code = rlsv3.RateLimitResponse_OK
	switch it.kind {
	case byNobody:
	case unlimited:
		s.LimitRemaining = math.MaxUint32
	case zero:
		s.CurrentLimit, s.DurationUntilReset = &made.limit, &made.reset
		tellRule(s.CurrentLimit, it.rule)
		tell(s.DurationUntilReset, it.rule.Quota.Unit.Span())
		if !it.passes() {
			s.Code = rlsv3.RateLimitResponse_OVER_LIMIT
		}
	case byLimiter:
		c.decided(it, s, &made.limit, &made.reset)
	}
	return s
}

// decided tells what the limiter answered, in messages that have been made.
func (c *call) decided(it *item, s *rlsv3.RateLimitResponse_DescriptorStatus, limit *rlsv3.RateLimitResponse_RateLimit, reset *durationpb.Duration) {
	d := c.decision(it)
	if !d.Allowed() {
		s.Code = rlsv3.RateLimitResponse_OVER_LIMIT
	}
	if d.Outcome == domain.OutcomeExempt {
		s.LimitRemaining = math.MaxUint32
	}
	most := d.Constraining()
	switch {
	case it.rule != nil:
		s.CurrentLimit = limit
		tellRule(limit, it.rule)
	case most != nil:
		s.CurrentLimit = limit
		tellStatus(limit, d.Policy, most)
	}
	if most != nil && d.LevelKnown && !most.LevelUnknown {
		s.LimitRemaining = clamped(most.Remaining)
		s.DurationUntilReset = reset
		tell(reset, most.ResetAfter)
	}
}

var units = [...]rlsv3.RateLimitResponse_RateLimit_Unit{
	envoyconfig.Second: rlsv3.RateLimitResponse_RateLimit_SECOND,
	envoyconfig.Minute: rlsv3.RateLimitResponse_RateLimit_MINUTE,
	envoyconfig.Hour:   rlsv3.RateLimitResponse_RateLimit_HOUR,
	envoyconfig.Day:    rlsv3.RateLimitResponse_RateLimit_DAY,
	envoyconfig.Week:   rlsv3.RateLimitResponse_RateLimit_WEEK,
	envoyconfig.Month:  rlsv3.RateLimitResponse_RateLimit_MONTH,
	envoyconfig.Year:   rlsv3.RateLimitResponse_RateLimit_YEAR,
}

func tell(to *durationpb.Duration, d time.Duration) {
	to.Seconds, to.Nanos = int64(d/time.Second), int32(d%time.Second)
}

func tellRule(l *rlsv3.RateLimitResponse_RateLimit, rule *envoyconfig.Rule) {
	l.Name, l.RequestsPerUnit, l.Unit = rule.Name, rule.Quota.Requests, units[rule.Quota.Unit]
}

// tellStatus tells a limit of a policy in the protocol's words: its capacity, in the time in which it fills.
func tellStatus(l *rlsv3.RateLimitResponse_RateLimit, policy string, s *domain.LimitStatus) {
	l.Name, l.RequestsPerUnit = policy, clamped(s.Capacity)
	seconds := max(domain.CeilSeconds(s.FillTime), 1)
	for unit := envoyconfig.Day; unit >= envoyconfig.Second; unit-- {
		if span := int64(unit.Span() / time.Second); seconds%span == 0 {
			l.Unit = units[unit]
			if n := seconds / span; n > 1 {
				l.UnitMultiplier = wrapperspb.UInt32(uint32(min(n, math.MaxUint32)))
			}
			break
		}
	}
}
