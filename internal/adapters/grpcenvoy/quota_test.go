package grpcenvoy_test

import (
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
)

var quotas = grpcenvoy.Config{Limits: "quota"}

// at returns an instant. 2026-06-15 is 20,619 days after 1970-01-01, from which the windows are counted.
func at(t *testing.T, text string) domain.Instant {
	t.Helper()
	when, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return domain.InstantOf(when)
}

func TestQuota_theAnswerIsThatOfAWindow(t *testing.T) {
	l := newLimiter(nil)
	l.now = at(t, "2026-06-15T12:34:56.5Z")
	c := serviceOf(t, quotas, l, `
  - {key: second, rate_limit: {unit: second, requests_per_unit: 2}}
  - {key: minute, rate_limit: {unit: minute, requests_per_unit: 2}}
  - {key: hour, rate_limit: {unit: hour, requests_per_unit: 2}}
  - {key: day, rate_limit: {unit: day, requests_per_unit: 2}}
  - {key: week, rate_limit: {unit: week, requests_per_unit: 2}}
  - {key: month, rate_limit: {unit: month, requests_per_unit: 2}}
  - {key: year, rate_limit: {unit: year, requests_per_unit: 2}}
`)
	const restOfDay = 11*time.Hour + 25*time.Minute + 4*time.Second
	const day = 24 * time.Hour
	for _, x := range []struct {
		key   string
		unit  rlsv3.RateLimitResponse_RateLimit_Unit
		until time.Duration // from 12:34:56, as envoyproxy/ratelimit has no part of a second
	}{
		{"second", rlsv3.RateLimitResponse_RateLimit_SECOND, time.Second},
		{"minute", rlsv3.RateLimitResponse_RateLimit_MINUTE, 4 * time.Second},
		{"hour", rlsv3.RateLimitResponse_RateLimit_HOUR, 25*time.Minute + 4*time.Second},
		{"day", rlsv3.RateLimitResponse_RateLimit_DAY, restOfDay},
		{"week", rlsv3.RateLimitResponse_RateLimit_WEEK, (7-20619%7-1)*day + restOfDay},
		{"month", rlsv3.RateLimitResponse_RateLimit_MONTH, (30-20619%30-1)*day + restOfDay},
		{"year", rlsv3.RateLimitResponse_RateLimit_YEAR, (365-20619%365-1)*day + restOfDay},
	} {
		look := descriptor(x.key + "=a")
		look.HitsAddend = wrapperspb.UInt64(0)
		for i, step := range []struct {
			d     *ratelimitv3.RateLimitDescriptor
			codes string
			left  uint32
		}{
			{look, "OK: OK", 2}, // nothing is spent, and the window ends all the same
			{descriptor(x.key + "=a"), "OK: OK", 1},
			{descriptor(x.key + "=a"), "OK: OK", 0},
			{descriptor(x.key + "=a"), "OVER_LIMIT: OVER_LIMIT", 0},
		} {
			codes, r := ask(t, c, request(step.d))
			status := r.GetStatuses()[0]
			assert.Equal(t, step.codes, codes, "%s, call %d", x.key, i+1)
			assert.Equal(t, step.left, status.GetLimitRemaining(), "%s, call %d", x.key, i+1)
			assert.Equal(t, x.unit, status.GetCurrentLimit().GetUnit(), "%s, call %d", x.key, i+1)
			assert.EqualValues(t, 2, status.GetCurrentLimit().GetRequestsPerUnit(), "%s, call %d", x.key, i+1)
			assert.Nil(t, status.GetCurrentLimit().GetUnitMultiplier(), "%s, call %d", x.key, i+1)
			assert.Equal(t, x.until, status.GetDurationUntilReset().AsDuration(), "%s, call %d", x.key, i+1)
		}
	}
}

func TestQuota_aWindowBeginsFull(t *testing.T) {
	l := newLimiter(nil)
	c := serviceOf(t, quotas, l, "  - {key: k, rate_limit: {unit: minute, requests_per_unit: 2}}\n")
	for _, step := range []struct {
		at, codes string
		left      uint32
	}{
		{"2026-06-15T12:34:59.999998Z", "OK: OK", 1},
		{"2026-06-15T12:34:59.999999Z", "OK: OK", 0},
		{"2026-06-15T12:34:59.999999Z", "OVER_LIMIT: OVER_LIMIT", 0},
		{"2026-06-15T12:35:00Z", "OK: OK", 1},
		{"2026-06-15T12:35:30Z", "OK: OK", 0},
		{"2026-06-15T12:35:59.999999Z", "OVER_LIMIT: OVER_LIMIT", 0}, // nothing comes back within the window
		{"2026-06-15T12:36:00Z", "OK: OK", 1},
	} {
		l.now = at(t, step.at)
		codes, r := ask(t, c, request(descriptor("k=a")))
		assert.Equal(t, step.codes, codes, step.at)
		assert.Equal(t, step.left, r.GetStatuses()[0].GetLimitRemaining(), step.at)
	}
}

func TestQuota_headersSayThePeriod(t *testing.T) {
	l := newLimiter(nil)
	l.now = at(t, "2026-06-15T12:34:56.5Z")
	c := serviceOf(t, quotas, l, "  - {key: k, rate_limit: {unit: minute, requests_per_unit: 1}}\n")
	_, _ = ask(t, c, request(descriptor("k=a")))
	_, r := ask(t, c, request(descriptor("k=a")))
	headers := map[string]string{}
	for _, h := range r.GetResponseHeadersToAdd() {
		headers[h.GetKey()] = h.GetValue()
	}
	assert.Equal(t, map[string]string{
		"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "RateLimit-Policy": `"default";q=1;w=60`, "RateLimit": `"default";r=0;t=4`,
		"X-RateLimit-Retry-After": "4", "Retry-After": "4",
	}, headers)
}

func TestQuota_aLimitInTheRequest(t *testing.T) {
	l := newLimiter(nil)
	l.now = at(t, "2026-06-15T12:34:56.5Z")
	c := serviceOf(t, quotas, l, "")
	d := descriptor("k=a")
	d.Limit = &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1, Unit: typev3.RateLimitUnit_MINUTE}
	for _, want := range []string{"OK: OK", "OVER_LIMIT: OVER_LIMIT"} {
		codes, r := ask(t, c, request(d))
		assert.Equal(t, want, codes)
		assert.Equal(t, 4*time.Second, r.GetStatuses()[0].GetDurationUntilReset().AsDuration())
	}
	l.now = at(t, "2026-06-15T12:35:00Z")
	codes, _ := ask(t, c, request(d))
	assert.Equal(t, "OK: OK", codes)
	assert.Equal(t, "envoy-override-minute", l.asked[0].CallerPolicy.Name)
}

// Routes may bring limits of different units for one descriptor. A window that begins does not end another unit's.
func TestQuota_unitsInRequestsCountApart(t *testing.T) {
	l := newLimiter(nil)
	c := serviceOf(t, quotas, l, "")
	for _, step := range []struct {
		at, codes string
		unit      typev3.RateLimitUnit
	}{
		{"2026-06-15T12:34:00Z", "OK: OK", typev3.RateLimitUnit_HOUR},
		{"2026-06-15T12:34:00Z", "OK: OK", typev3.RateLimitUnit_MINUTE},
		{"2026-06-15T12:34:00Z", "OVER_LIMIT: OVER_LIMIT", typev3.RateLimitUnit_MINUTE},
		{"2026-06-15T12:35:00Z", "OK: OK", typev3.RateLimitUnit_MINUTE},
		{"2026-06-15T12:35:00Z", "OVER_LIMIT: OVER_LIMIT", typev3.RateLimitUnit_HOUR},
	} {
		l.now = at(t, step.at)
		d := descriptor("k=a")
		d.Limit = &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1, Unit: step.unit}
		codes, _ := ask(t, c, request(d))
		assert.Equal(t, step.codes, codes, "%s at %s", step.unit, step.at)
	}
}

// A limit of zero is decided without the store, by the clock of this process.
func TestQuota_aLimitOfZeroEndsWithTheWindow(t *testing.T) {
	c := serviceOf(t, quotas, newLimiter(nil), "  - {key: k, rate_limit: {unit: year, requests_per_unit: 0}}\n")
	const year = 365 * 24 * 60 * 60
	before := time.Now().Unix()
	codes, r := ask(t, c, request(descriptor("k=a")))
	after := time.Now().Unix()
	assert.Equal(t, "OVER_LIMIT: OVER_LIMIT", codes)
	until := r.GetStatuses()[0].GetDurationUntilReset()
	assert.Zero(t, until.GetNanos())
	assert.LessOrEqual(t, until.GetSeconds(), year-before%year)
	assert.GreaterOrEqual(t, until.GetSeconds(), year-after%year)
}

// A quota of a policy file may have calendar periods.
func TestQuota_ofAPolicyIsDescribedInDays(t *testing.T) {
	month, err := calendar.Parse("month", "Europe/Berlin", "")
	require.NoError(t, err)
	limit, err := domain.NewQuota("monthly", 1000, month)
	require.NoError(t, err)
	status := limit.Status(limit.Full(at(t, "2026-06-15T12:00:00Z")), at(t, "2026-06-15T12:00:00Z"), 1, 0, true)
	for _, x := range []struct {
		limit      domain.LimitStatus
		unit       rlsv3.RateLimitResponse_RateLimit_Unit
		multiplier uint32
	}{
		{status, rlsv3.RateLimitResponse_RateLimit_DAY, 30},
		{limit.UnknownStatus(true), rlsv3.RateLimitResponse_RateLimit_UNKNOWN, 0}, // while the store fails the period is not known
	} {
		addr, _ := start(t, testConfig(), fixed{ports.Answer{Decision: decision.Decision{
			Outcome: decision.OutcomeAllowed, Policy: "logins", LevelKnown: !x.limit.LevelUnknown, Limits: []domain.LimitStatus{x.limit},
		}}})
		_, r := ask(t, rlsv3.NewRateLimitServiceClient(dial(t, addr)), request(descriptor("a=b")))
		current := r.GetStatuses()[0].GetCurrentLimit()
		assert.EqualValues(t, 1000, current.GetRequestsPerUnit())
		assert.Equal(t, x.unit, current.GetUnit())
		assert.Equal(t, x.multiplier, current.GetUnitMultiplier().GetValue())
	}
}
