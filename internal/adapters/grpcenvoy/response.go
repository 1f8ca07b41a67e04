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

func headers(d *domain.Decision) (list []*corev3.HeaderValue) {
	var room [256]byte
	d.HeaderFields(room[:0], func(name string, value []byte) {
		list = append(list, &corev3.HeaderValue{Key: name, Value: string(value)})
	})
	return list
}

func (c *call) status(it *item) *rlsv3.RateLimitResponse_DescriptorStatus {
	s := &rlsv3.RateLimitResponse_DescriptorStatus{Code: rlsv3.RateLimitResponse_OK}
	switch it.kind {
	case byNobody:
	case unlimited:
		s.LimitRemaining = math.MaxUint32
	case zero:
		s.CurrentLimit = limitOf(it.rule)
		s.DurationUntilReset = durationpb.New(it.rule.Quota.Unit.Span())
		if !it.passes() {
			s.Code = rlsv3.RateLimitResponse_OVER_LIMIT
		}
	case byLimiter:
		c.decided(it, s)
	}
	return s
}

// decided tells what the limiter answered.
func (c *call) decided(it *item, s *rlsv3.RateLimitResponse_DescriptorStatus) {
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
		s.CurrentLimit = limitOf(it.rule)
	case most != nil:
		s.CurrentLimit = limitOfStatus(d.Policy, most)
	}
	if most != nil && d.LevelKnown && !most.LevelUnknown {
		s.LimitRemaining = clamped(most.Remaining)
		s.DurationUntilReset = durationpb.New(most.ResetAfter)
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

func limitOf(rule *envoyconfig.Rule) *rlsv3.RateLimitResponse_RateLimit {
	return &rlsv3.RateLimitResponse_RateLimit{
		Name: rule.Name, RequestsPerUnit: rule.Quota.Requests, Unit: units[rule.Quota.Unit],
	}
}

// limitOfStatus tells a limit of a policy in the protocol's words: its capacity, in the time in which it fills.
func limitOfStatus(policy string, s *domain.LimitStatus) *rlsv3.RateLimitResponse_RateLimit {
	l := &rlsv3.RateLimitResponse_RateLimit{Name: policy, RequestsPerUnit: clamped(s.Capacity)}
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
	return l
}
