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
	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

// response returns the answer to the request, with headers of these families. It is over the limit if any descriptor is.
func (c *call) response(families decision.HeaderFamilies) *rlsv3.RateLimitResponse {
	r := &rlsv3.RateLimitResponse{
		OverallCode: rlsv3.RateLimitResponse_OK,
		Statuses:    make([]*rlsv3.RateLimitResponse_DescriptorStatus, len(c.items)),
	}
	var most *decision.Decision
	for i := range c.items {
		status := c.status(&c.items[i])
		r.Statuses[i] = status
		if status.Code == rlsv3.RateLimitResponse_OVER_LIMIT {
			r.OverallCode = status.Code
		}
		if c.items[i].kind == byLimiter {
			most = bindingMore(most, &c.of(&c.items[i]).Decision)
		}
	}
	if most != nil {
		r.ResponseHeadersToAdd = headers(most, families)
	}
	return r
}

// bindingMore returns the decision with the more constraining limit.
func bindingMore(a, b *decision.Decision) *decision.Decision {
	if a == nil {
		return b
	}
	ofA, ofB := a.Constraining(), b.Constraining()
	switch {
	case ofA == nil, ofB != nil && ofB.MoreConstrainingThan(ofA):
		return b
	default:
		return a
	}
}

// headers returns the header fields of a decision. Every answer has them, so it makes only two allocations: one for the
// messages and one for all values.
func headers(d *decision.Decision, families decision.HeaderFamilies) []*corev3.HeaderValue {
	const most = decision.MaxHeaderFields
	var (
		buf, values [256]byte
		ends        [most]int
		all         = values[:0]
		n           int
	)
	made := new(struct {
		fields [most]corev3.HeaderValue
		list   [most]*corev3.HeaderValue
	})
	families.Fields(d, buf[:0], func(name string, value []byte) {
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
	case notLimited:
	case unlimited:
		s.LimitRemaining = math.MaxUint32
	case zero:
		s.CurrentLimit, s.DurationUntilReset = &made.limit, &made.reset
		setRule(s.CurrentLimit, it.rule)
		until := it.rule.Rate.Unit.Span()
		if it.rule.Quota {
			until = it.rule.Rate.Unit.UntilWindowEnds(domain.InstantOf(time.Now()))
		}
		setDuration(s.DurationUntilReset, until)
		if !it.passes() {
			s.Code = rlsv3.RateLimitResponse_OVER_LIMIT
		}
	case byLimiter:
		c.setDecided(it, s, &made.limit, &made.reset)
	}
	return s
}

// setDecided sets a status from the limiter's decision. limit and reset are memory for its messages.
func (c *call) setDecided(it *item, s *rlsv3.RateLimitResponse_DescriptorStatus, limit *rlsv3.RateLimitResponse_RateLimit, reset *durationpb.Duration) {
	answer := c.of(it)
	d := &answer.Decision
	if answer.Err == nil && !d.Allowed() {
		s.Code = rlsv3.RateLimitResponse_OVER_LIMIT
	}
	if d.Outcome == decision.OutcomeExempt {
		s.LimitRemaining = math.MaxUint32
	}
	most := d.Constraining()
	switch {
	case it.rule != nil:
		s.CurrentLimit = limit
		setRule(limit, it.rule)
	case most != nil:
		s.CurrentLimit = limit
		setLimit(limit, d.Policy, most)
	}
	if most != nil && d.LevelKnown && !most.LevelUnknown {
		s.LimitRemaining = clamped(most.Remaining)
		s.DurationUntilReset = reset
		until := most.ResetAfter
		if it.rule != nil && it.rule.Quota {
			until = it.rule.Rate.Unit.UntilWindowEnds(d.At) // also if nothing is spent
		}
		setDuration(reset, until)
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

func setDuration(to *durationpb.Duration, d time.Duration) {
	to.Seconds, to.Nanos = int64(d/time.Second), int32(d%time.Second)
}

func setRule(l *rlsv3.RateLimitResponse_RateLimit, rule *envoyconfig.Rule) {
	l.Name, l.RequestsPerUnit, l.Unit = rule.Name, rule.Rate.Requests, units[rule.Rate.Unit]
}

// setLimit describes a limit of a policy in terms of the protocol: its capacity, and as the unit the time over which it counts,
// if that is known.
func setLimit(l *rlsv3.RateLimitResponse_RateLimit, policy string, s *domain.LimitStatus) {
	l.Name, l.RequestsPerUnit = policy, clamped(s.Capacity)
	if s.Window == 0 {
		return
	}
	seconds := decision.CeilSeconds(s.Window)
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
