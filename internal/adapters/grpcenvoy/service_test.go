package grpcenvoy_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const rules = `
  - {key: two, rate_limit: {unit: hour, requests_per_unit: 2, name: two}}
  - {key: five, rate_limit: {unit: day, requests_per_unit: 5}}
  - {key: instead, rate_limit: {unit: day, requests_per_unit: 5, replaces: [{name: two}]}}
  - {key: none, rate_limit: {unit: minute, requests_per_unit: 0}}
  - {key: none, value: shady, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 0}}
  - {key: shady, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}
  - {key: free, rate_limit: {unlimited: true, name: two}}
`

func TestShouldRateLimit_answersEachDescriptor(t *testing.T) {
	c := service(t, newLimiter(nil), rules)
	codes, r := ask(t, c, request(descriptor("two=a"), descriptor("free=a"), descriptor("unknown=a"), descriptor("five=a")))
	assert.Equal(t, "OK: OK OK OK OK", codes)
	two, free, unknown := r.GetStatuses()[0], r.GetStatuses()[1], r.GetStatuses()[2]
	assert.Equal(t, "two", two.GetCurrentLimit().GetName())
	assert.EqualValues(t, 2, two.GetCurrentLimit().GetRequestsPerUnit())
	assert.Equal(t, rlsv3.RateLimitResponse_RateLimit_HOUR, two.GetCurrentLimit().GetUnit())
	assert.EqualValues(t, 1, two.GetLimitRemaining())
	assert.Equal(t, 30*time.Minute, two.GetDurationUntilReset().AsDuration())
	assert.Nil(t, free.GetCurrentLimit())
	assert.EqualValues(t, math.MaxUint32, free.GetLimitRemaining())
	assert.Nil(t, unknown.GetCurrentLimit())
	assert.Zero(t, unknown.GetLimitRemaining())

	headers := map[string]string{}
	for _, h := range r.GetResponseHeadersToAdd() {
		headers[h.GetKey()] = h.GetValue()
	}
	assert.Equal(t, map[string]string{ // of the most constraining
		"X-RateLimit-Limit": "2", "X-RateLimit-Remaining": "1", "RateLimit": `"default";r=1;t=1800`,
		"RateLimit-Policy": `"default";q=2;w=3600`,
	}, headers)
}

func TestShouldRateLimit_headersOfTheFamiliesThatAreChosen(t *testing.T) {
	_, r := ask(t, serviceOf(t, grpcenvoy.Config{Headers: decision.NoXRateLimit}, newLimiter(nil), rules), request(descriptor("two=a")))
	var names []string
	for _, h := range r.GetResponseHeadersToAdd() {
		names = append(names, h.GetKey())
	}
	assert.ElementsMatch(t, []string{"RateLimit", "RateLimit-Policy"}, names)
}

func TestShouldRateLimit_takesAllOrNothing(t *testing.T) {
	l := newLimiter(nil)
	c := service(t, l, rules)
	for _, step := range []struct{ descriptors, want string }{
		{"two=a", "OK: OK"},
		{"two=a", "OK: OK"},
		{"two=a; five=a", "OVER_LIMIT: OVER_LIMIT OK"},
		{"two=a; five=a", "OVER_LIMIT: OVER_LIMIT OK"},
		{"five=a; none=x", "OVER_LIMIT: OK OVER_LIMIT"},
		{"five=a; none=shady", "OK: OK OK"}, // takes the first of five
		{"two=b; five=a", "OK: OK OK"},      // another bucket of two
		{"five=a", "OK: OK"},
		{"five=a", "OK: OK"},
		{"five=a", "OK: OK"},
		{"five=a", "OVER_LIMIT: OVER_LIMIT"},
		{"shady=a", "OK: OK"},
		{"shady=a", "OK: OK"},
		{"shady=a; two=c", "OK: OK OK"}, // a denial in shadow mode stops no other
	} {
		var list []*ratelimitv3.RateLimitDescriptor
		for text := range strings.SplitSeq(step.descriptors, "; ") {
			list = append(list, descriptor(text))
		}
		codes, _ := ask(t, c, request(list...))
		assert.Equal(t, step.want, codes, step.descriptors)
	}
}

func TestShouldRateLimit_hits(t *testing.T) {
	own := func(n uint64, negative bool) *ratelimitv3.RateLimitDescriptor {
		d := descriptor("five=a")
		d.HitsAddend, d.IsNegativeHits = wrapperspb.UInt64(n), negative
		return d
	}
	negative := descriptor("five=a")
	negative.IsNegativeHits = true
	c := service(t, newLimiter(nil), rules)
	for i, step := range []struct {
		addend uint32
		d      *ratelimitv3.RateLimitDescriptor
		code   string
		left   uint32
	}{
		{0, descriptor("five=a"), "OK: OK", 4},                      // of the request, 0 is one
		{2, descriptor("five=a"), "OK: OK", 2},                      // of the request
		{2, own(0, false), "OK: OK", 2},                             // of the descriptor, 0 is a peek
		{9, own(1, false), "OK: OK", 1},                             // the descriptor's goes first
		{0, own(2, false), "OVER_LIMIT: OVER_LIMIT", 1},             // all or nothing
		{0, own(2, true), "OK: OK", 3},                              // refunded
		{0, negative, "OK: OK", 4},                                  // one
		{0, own(9, true), "OK: OK", 5},                              // never above the capacity
		{0, own(6, false), "OVER_LIMIT: OVER_LIMIT", 5},             // can never pass
		{math.MaxInt32, negative, "OK: OK", 5},                      //
		{0, own(math.MaxInt32, false), "OVER_LIMIT: OVER_LIMIT", 5}, //
	} {
		r := request(step.d)
		r.HitsAddend = step.addend
		codes, response := ask(t, c, r)
		assert.Equal(t, step.code, codes, "step %d", i)
		assert.Equal(t, step.left, response.GetStatuses()[0].GetLimitRemaining(), "step %d", i)
	}

	over := own(1, true)
	codes, response := ask(t, c, request(over, descriptor("none=x")))
	assert.Equal(t, "OVER_LIMIT: OK OVER_LIMIT", codes)
	assert.EqualValues(t, 5, response.GetStatuses()[0].GetLimitRemaining())
	codes, _ = ask(t, c, request(func() *ratelimitv3.RateLimitDescriptor {
		d := descriptor("none=x")
		d.HitsAddend = wrapperspb.UInt64(0)
		return d
	}()))
	assert.Equal(t, "OK: OK", codes, "a look at a limit that lets nothing pass")
}

func TestShouldRateLimit_aDenialRefundsNothing(t *testing.T) {
	c := service(t, newLimiter(nil), rules)
	_, _ = ask(t, c, request(descriptor("five=a")))
	back := descriptor("five=a")
	back.IsNegativeHits = true
	over := descriptor("two=a")
	over.HitsAddend = wrapperspb.UInt64(3)
	codes, r := ask(t, c, request(back, over))
	assert.Equal(t, "OVER_LIMIT: OK OVER_LIMIT", codes)
	assert.EqualValues(t, 4, r.GetStatuses()[0].GetLimitRemaining())
}

func TestShouldRateLimit_replaces(t *testing.T) {
	c := service(t, newLimiter(nil), rules)
	for range 3 {
		codes, r := ask(t, c, request(descriptor("two=a"), descriptor("instead=a")))
		assert.Equal(t, "OK: OK OK", codes)
		assert.Nil(t, r.GetStatuses()[0].GetCurrentLimit(), "another rule replaces it")
	}
	codes, r := ask(t, c, request(descriptor("two=a")))
	assert.Equal(t, "OK: OK", codes)
	assert.EqualValues(t, 1, r.GetStatuses()[0].GetLimitRemaining(), "it was not touched")
	_, r = ask(t, c, request(descriptor("free=a"), descriptor("instead=b")))
	assert.EqualValues(t, math.MaxUint32, r.GetStatuses()[0].GetLimitRemaining(), "what is unlimited stays")
}

func TestShouldRateLimit_aRequestBringsItsLimit(t *testing.T) {
	bring := func(n uint32, unit typev3.RateLimitUnit) *ratelimitv3.RateLimitDescriptor {
		d := descriptor("five=a")
		d.Limit = &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: n, Unit: unit}
		return d
	}
	c := service(t, newLimiter(nil), rules)
	for range 3 {
		codes, r := ask(t, c, request(bring(3, typev3.RateLimitUnit_MINUTE)))
		assert.Equal(t, "OK: OK", codes)
		assert.EqualValues(t, 3, r.GetStatuses()[0].GetCurrentLimit().GetRequestsPerUnit())
		assert.Equal(t, rlsv3.RateLimitResponse_RateLimit_MINUTE, r.GetStatuses()[0].GetCurrentLimit().GetUnit())
	}
	codes, _ := ask(t, c, request(bring(3, typev3.RateLimitUnit_MINUTE)))
	assert.Equal(t, "OVER_LIMIT: OVER_LIMIT", codes)
	codes, _ = ask(t, c, request(bring(0, typev3.RateLimitUnit_MINUTE)))
	assert.Equal(t, "OVER_LIMIT: OVER_LIMIT", codes)
	codes, r := ask(t, c, request(descriptor("five=a")))
	assert.Equal(t, "OK: OK", codes)
	assert.EqualValues(t, 4, r.GetStatuses()[0].GetLimitRemaining(), "the rule's own bucket is another")

	elsewhere := request(bring(3, typev3.RateLimitUnit_MINUTE))
	elsewhere.Domain = "other"
	codes, _ = ask(t, c, elsewhere)
	assert.Equal(t, "OK: OK", codes, "of another domain, another bucket")

	for n := range uint32(3000) { // more than are kept
		d := bring(n+10, typev3.RateLimitUnit_HOUR)
		d.Entries[0].Value = fmt.Sprint(n)
		codes, r := ask(t, c, request(d))
		require.Equal(t, "OK: OK", codes)
		require.Equal(t, n+9, r.GetStatuses()[0].GetLimitRemaining())
	}
}

func newPolicy(t *testing.T, capacity, refill domain.Tokens, per time.Duration) *policy.Policy {
	t.Helper()
	limit, err := domain.NewBucket("burst", capacity, refill, per)
	require.NoError(t, err)
	p := &policy.Policy{
		Name: "logins", Match: policy.Match{Domain: "edge", Descriptor: []policy.DescriptorPattern{{Key: "ip"}}},
		Limits: []domain.Limit{limit}, OnStoreFailure: policy.FailOpen,
	}
	require.NoError(t, p.Compile())
	return p
}

func TestShouldRateLimit_asksThePolicies(t *testing.T) {
	l := newLimiter(newPolicy(t, 10, 5, time.Second))
	c := service(t, l, "")
	_, r := ask(t, c, request(descriptor("ip=10.0.0.1, agent=x")))
	require.Len(t, l.asked, 1)
	assert.Equal(t, "edge", l.asked[0].Domain)
	assert.Equal(t, []policy.DescriptorEntry{{Key: "ip", Value: "10.0.0.1"}, {Key: "agent", Value: "x"}}, l.asked[0].Descriptor)
	assert.True(t, l.asked[0].PolicyCost, "the policy says the cost where the request does not")
	limit := r.GetStatuses()[0].GetCurrentLimit()
	assert.Equal(t, "logins", limit.GetName())
	assert.EqualValues(t, 10, limit.GetRequestsPerUnit(), "the capacity")
	assert.Equal(t, rlsv3.RateLimitResponse_RateLimit_SECOND, limit.GetUnit())
	assert.EqualValues(t, 2, limit.GetUnitMultiplier().GetValue(), "in the time in which it fills")
}

func TestShouldRateLimit_outcomes(t *testing.T) {
	for _, c := range []struct {
		decision decision.Decision
		want     string
		left     uint32
	}{
		{decision.Decision{Outcome: decision.OutcomeAllowed}, "OK: OK", 0},
		{decision.Decision{Outcome: decision.OutcomeExempt}, "OK: OK", math.MaxUint32},
		{decision.Decision{Outcome: decision.OutcomeBlocked, Shadow: true}, "OVER_LIMIT: OVER_LIMIT", 0},
		{decision.Decision{Outcome: decision.OutcomeUnavailable}, "OVER_LIMIT: OVER_LIMIT", 0},
		{decision.Decision{Outcome: decision.OutcomeDenied, Shadow: true}, "OK: OK", 0},
		{decision.Decision{Outcome: decision.OutcomeDenied}, "OVER_LIMIT: OVER_LIMIT", 0},
	} {
		addr, _ := start(t, testConfig(), fixed{ports.Answer{Decision: c.decision}})
		codes, r := ask(t, rlsv3.NewRateLimitServiceClient(dial(t, addr)), request(descriptor("a=b")))
		assert.Equal(t, c.want, codes, "%+v", c.decision)
		assert.Equal(t, c.left, r.GetStatuses()[0].GetLimitRemaining(), "%+v", c.decision)
	}
}

func TestShouldRateLimit_refusesWithTheFieldsName(t *testing.T) {
	many := func(n int) (list []*ratelimitv3.RateLimitDescriptor) {
		for range n {
			list = append(list, descriptor("a=b"))
		}
		return list
	}
	hits := descriptor("a=b")
	hits.HitsAddend = wrapperspb.UInt64(math.MaxUint64)
	unit := descriptor("a=b")
	unit.Limit = &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1}
	rate := descriptor("a=b")
	rate.Limit = &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: math.MaxUint32 - 4, Unit: typev3.RateLimitUnit_YEAR}
	large := descriptor("a=" + strings.Repeat("b", 64<<10))
	c := service(t, newLimiter(nil), rules)
	for _, x := range []struct {
		r    *rlsv3.RateLimitRequest
		code codes.Code
		want string
	}{
		{&rlsv3.RateLimitRequest{Descriptors: many(1)}, codes.Unknown, "rate limit domain must not be empty"},
		{&rlsv3.RateLimitRequest{Domain: "edge"}, codes.Unknown, "rate limit descriptor list must not be empty"},
		{request(many(33)...), codes.InvalidArgument, "descriptors: 33: there must be at most 32"},
		{&rlsv3.RateLimitRequest{Domain: "edge", Descriptors: many(1), HitsAddend: math.MaxUint32}, codes.InvalidArgument, "hits_addend: 4294967295"},
		{request(hits), codes.InvalidArgument, "descriptors[0].hits_addend: 18446744073709551615"},
		{request(&ratelimitv3.RateLimitDescriptor{}), codes.InvalidArgument, "descriptors[0].entries: 0"},
		{request(descriptor("a=b" + strings.Repeat(", a=b", 32))), codes.InvalidArgument, "descriptors[0].entries: 33"},
		{request(descriptor("=b")), codes.InvalidArgument, "descriptors[0].entries[0].key: must not be empty"},
		{request(unit), codes.InvalidArgument, "descriptors.limit.unit: UNKNOWN: is not a unit of time"},
		{request(rate), codes.InvalidArgument, "the nearest rate that fits is"},
		{request(large), codes.ResourceExhausted, "received message larger than max"},
	} {
		_, err := c.ShouldRateLimit(t.Context(), x.r)
		assert.Equal(t, x.code, status.Code(err), x.want)
		assert.ErrorContains(t, err, x.want)
	}
	codes, _ := ask(t, c, request(many(32)...))
	assert.Equal(t, "OK:"+strings.Repeat(" OK", 32), codes)
}

func TestShouldRateLimit_errorsNameNoAddress(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{fmt.Errorf("%w: dial tcp 10.1.2.3:6379", ports.ErrUnavailable), codes.Unavailable},
		{fmt.Errorf("%w: 10.1.2.3:6379", ports.ErrCorrupt), codes.Unavailable},
		{fmt.Errorf("%w: 10.1.2.3:6379: %w", ports.ErrUnavailable, context.DeadlineExceeded), codes.Unavailable},
		{fmt.Errorf("%w: 10.1.2.3:6379: %w", ports.ErrUnavailable, context.Canceled), codes.Unavailable},
		{&domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must not be empty"}, codes.InvalidArgument},
		{fmt.Errorf("policy api at 10.1.2.3: %w", ports.ErrCannotHold), codes.Unimplemented},
		{errors.New("10.1.2.3:6379"), codes.Internal},
	} {
		l := newLimiter(nil)
		l.err = c.err
		_, err := service(t, l, "").ShouldRateLimit(t.Context(), request(descriptor("a=b")))
		assert.Equal(t, c.want, status.Code(err), "%v", c.err)
		assert.NotContains(t, err.Error(), "10.1.2.3")
	}
}

func TestShouldRateLimit_aPanicIsAnError(t *testing.T) {
	l := newLimiter(nil)
	l.before = func() { panic("secret") }
	c := service(t, l, "")
	_, err := c.ShouldRateLimit(t.Context(), request(descriptor("a=b")))
	assert.Equal(t, codes.Internal, status.Code(err))
	assert.NotContains(t, err.Error(), "secret")
	l.before = nil
	codes, _ := ask(t, c, request(descriptor("a=b")))
	assert.Equal(t, "OK: OK", codes)
}
