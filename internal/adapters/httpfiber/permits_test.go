package httpfiber_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// permits is a Limiter that grants what its function decides, and notes what is released and renewed.
type permits struct {
	limiterFunc
	asked    []string
	released bool
	lease    time.Duration
	err      error
}

func (p *permits) Release(_ context.Context, permit string, cost domain.Tokens) (bool, error) {
	p.asked = append(p.asked, fmt.Sprint("release ", permit, " ", cost))
	return p.released, p.err
}

func (p *permits) Renew(_ context.Context, permit string) (time.Duration, error) {
	p.asked = append(p.asked, "renew "+permit)
	return p.lease, p.err
}

func (p *permits) End(string, domain.Tokens) {
	panic("the callers of the decision API end their permits themselves")
}

// holding is a decision by which the caller holds a permit.
func holding(t *testing.T) decision.Decision {
	d := decided(t, 9, 1, true)
	d.Permit, d.Lease = "cGVybWl0_-", 59*time.Second+999*time.Millisecond+999*time.Microsecond
	return d
}

func TestCheck_answersWithThePermitAndTheWait(t *testing.T) {
	held := holding(t)
	waits := decided(t, -1, 1, true)
	waits.Wait = 179*time.Millisecond + time.Microsecond
	both := held
	both.Wait = time.Millisecond
	const permit = `,"permit":"cGVybWl0_-","permit_expires_after_ms":59999`
	for name, c := range map[string]struct {
		decision decision.Decision
		want     string
	}{
		"neither":                               {decided(t, 9, 1, true), `"store":"memory","limits":[`},
		"a permit, whose lease is rounded down": {held, `"store":"memory"` + permit + `,"limits":[`},
		"a wait, which is rounded up":           {waits, `"store":"memory","wait_ms":180,"limits":[`},
		"both":                                  {both, `"store":"memory","wait_ms":1` + permit + `,"limits":[`},
	} {
		addr := start(t, testConfig(), always(c.decision))
		assert.Contains(t, post(t, addr, "/v1/check", `{"key":"a"}`).body, c.want, name)
		got := post(t, addr, "/v1/checks", `{"checks":[{"key":"a"},{"key":"b"}]}`)
		assert.Equal(t, 2, strings.Count(got.body, c.want), "%s: %s", name, got.body)
	}
}

func TestCheck_asksForAPermitAndAWait(t *testing.T) {
	var asked policy.Request
	addr := start(t, testConfig(), limiterFunc(func(req policy.Request) (decision.Decision, error) {
		asked = req
		return decided(t, 9, 1, true), nil
	}))
	for text, want := range map[string]time.Duration{"0": 0, "1": time.Millisecond, "3600000": time.Hour} {
		body := `{"key":"a","max_wait_ms":` + text + `}`
		require.Equal(t, 200, post(t, addr, "/v1/check", body).status)
		assert.Equal(t, want, asked.MaxWait, text)
		asked = policy.Request{}
		require.Equal(t, 200, post(t, addr, "/v1/checks", `{"checks":[`+body+`]}`).status)
		assert.Equal(t, want, asked.MaxWait, text)
		assert.True(t, asked.HoldsPermit, "its caller can release what it gets")
		assert.False(t, asked.Hold, "no one in this process does")
	}
	for _, path := range []string{"/v1/refund", "/v1/charge"} {
		require.Equal(t, 200, post(t, addr, path, `{"key":"a"}`).status)
		assert.False(t, asked.HoldsPermit, path)
	}
}

func TestMaxWait_refusals(t *testing.T) {
	addr := start(t, testConfig(), limiterFunc(func(policy.Request) (decision.Decision, error) {
		t.Error("a bad body reached the limiter")
		return decision.Decision{}, nil
	}))
	for text, c := range map[string]struct {
		status int
		detail string
	}{
		`-1`:                   {422, "max_wait_ms: must be from 0 to 3600000"},
		`3600001`:              {422, "max_wait_ms: must be from 0 to 3600000"},
		`99999999999999999999`: {422, "max_wait_ms: must be at most 3600000"},
		`0.5`:                  {400, "max_wait_ms: must be a whole number, without fraction and exponent"},
		`"1s"`:                 {400, "max_wait_ms: must be a whole number"},
		`null`:                 {400, "max_wait_ms: must be a whole number"},
		`1,"max_wait_ms":1`:    {400, "max_wait_ms: is repeated"},
	} {
		body := `{"key":"a","max_wait_ms":` + text + `}`
		got := post(t, addr, "/v1/check", body)
		assert.Equal(t, c.status, got.status, text)
		assert.Equal(t, c.detail, got.problem(t)["detail"], text)
		assert.Contains(t, post(t, addr, "/v1/checks", `{"checks":[`+body+`]}`).body, `"detail":"`+c.detail, text)
	}
	for _, path := range []string{"/v1/refund", "/v1/charge"} {
		got := post(t, addr, path, `{"key":"a","max_wait_ms":1}`)
		assert.Equal(t, 400, got.status)
		assert.Equal(t, "max_wait_ms: is not a known field", got.problem(t)["detail"], "%s waits for nothing", path)
	}
}

func TestRelease_asksAndAnswers(t *testing.T) {
	p := &permits{}
	addr := start(t, testConfig(), p)
	for _, p.released = range []bool{true, false} {
		got := post(t, addr, "/v1/release", `{"permit":"a.b-c_"}`)
		assert.Equal(t, 200, got.status)
		assert.Equal(t, "application/json", got.header.Get("Content-Type"))
		assert.Equal(t, fmt.Sprintf(`{"released":%t}`, p.released), got.body)
		assert.Empty(t, got.header.Get("RateLimit"))
	}
	for _, cost := range []string{"0", "812", "2147483647"} {
		assert.Equal(t, 200, post(t, addr, "/v1/release", `{"cost":`+cost+`,"permit":"\u0061"}`).status)
	}
	assert.Equal(t, []string{"release a.b-c_ -1", "release a.b-c_ -1", "release a 0", "release a 812", "release a 2147483647"}, p.asked)
}

func TestRenew_asksAndAnswers(t *testing.T) {
	p := &permits{lease: 90*time.Second + 999*time.Microsecond}
	got := post(t, start(t, testConfig(), p), "/v1/renew", `{"permit":"a.b-c_"}`)
	assert.Equal(t, 200, got.status)
	assert.Equal(t, `{"permit_expires_after_ms":90000}`, got.body)
	assert.Equal(t, []string{"renew a.b-c_"}, p.asked)
}

func TestReleaseAndRenew_badBodiesNameTheField(t *testing.T) {
	p := &permits{}
	addr := start(t, testConfig(), p)
	for name, c := range map[string]struct {
		body   string
		status int
		detail string
	}{
		"empty":            {``, 400, "body: is not JSON"},
		"an array":         {`[]`, 400, "body: must be an object"},
		"trailing data":    {`{"permit":"a"}{}`, 400, "body: there is something after its end"},
		"no permit":        {`{}`, 400, "permit: is missing"},
		"an empty permit":  {`{"permit":""}`, 422, "permit: must not be empty"},
		"permit, a number": {`{"permit":1}`, 400, "permit: must be a string"},
		"permit, null":     {`{"permit":null}`, 400, "permit: must be a string"},
		"permit twice":     {`{"permit":"a","permit":"a"}`, 400, "permit: is repeated"},
		"not UTF-8":        {"{\"permit\":\"\xff\"}", 400, "permit: is not UTF-8"},
		"unknown field":    {`{"permit":"a","key":"b"}`, 400, "key: is not a known field"},
	} {
		for _, path := range []string{"/v1/release", "/v1/renew"} {
			got := post(t, addr, path, c.body)
			assert.Equal(t, c.status, got.status, "%s %s", path, name)
			assert.Contains(t, got.problem(t)["detail"], c.detail, "%s %s", path, name)
		}
	}
	for text, c := range map[string]struct {
		status int
		detail string
	}{
		`-1`:                   {422, "cost: -1: must be from 0 to 2147483647"},
		`2147483648`:           {422, "cost: 2147483648: must be from 0 to 2147483647"},
		`99999999999999999999`: {422, "cost: must be at most 2147483647"},
		`1.5`:                  {400, "cost: must be a whole number"},
		`null`:                 {400, "cost: must be a whole number"},
		`1,"cost":1`:           {400, "cost: is repeated"},
	} {
		got := post(t, addr, "/v1/release", `{"permit":"a","cost":`+text+`}`)
		assert.Equal(t, c.status, got.status, text)
		assert.Contains(t, got.problem(t)["detail"], c.detail, text)
	}
	got := post(t, addr, "/v1/renew", `{"permit":"a","cost":1}`)
	assert.Equal(t, 400, got.status)
	assert.Equal(t, "cost: is not a known field", got.problem(t)["detail"])
	assert.Equal(t, 415, call(t, "POST", "http://"+addr+"/v1/release", `{"permit":"a"}`, "Content-Type", "text/plain").status)
	assert.Equal(t, 415, call(t, "POST", "http://"+addr+"/v1/renew", `{"permit":"a"}`, "Content-Type", "text/plain").status)
	assert.Equal(t, 405, call(t, "GET", "http://"+addr+"/v1/release", "").status)
	assert.Empty(t, p.asked)
}

// TestReleaseAndRenew_aLongPermit: a permit names its client, whose key may be as long as a check.
func TestReleaseAndRenew_aLongPermit(t *testing.T) {
	p := &permits{released: true, lease: time.Second}
	addr := start(t, testConfig(), p)
	for _, path := range []string{"/v1/release", "/v1/./%72enew"} {
		for length, status := range map[int]int{1<<20 - len(`{"permit":""}`): 200, 1<<20 - len(`{"permit":""}`) + 1: 413} {
			got := post(t, addr, path, `{"permit":"`+strings.Repeat("a", length)+`"}`)
			assert.Equal(t, status, got.status, "%s %d", path, length)
		}
	}
	assert.Len(t, p.asked, 2)
}

func TestReleaseAndRenew_errors(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		detail string
	}{
		"ended":          {fmt.Errorf("10.1.2.3: %w", ports.ErrPermitEnded), 404, "permit: it has ended: it was released, or its lease is over"},
		"unknown policy": {ports.ErrUnknownPolicy, 404, "policy: there is no policy of this name"},
		"no permit": {
			&domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "permit", Reason: "is none that was granted"}, 422,
			"permit: is none that was granted",
		},
		"store":      {fmt.Errorf("%w: 10.1.2.3", ports.ErrUnavailable), 503, "the store does not answer: send it again, it counts once"},
		"overloaded": {ports.ErrOverloaded, 503, "the server is overloaded"},
	} {
		addr := start(t, testConfig(), &permits{err: c.err})
		for _, path := range []string{"/v1/release", "/v1/renew"} {
			got := post(t, addr, path, `{"permit":"a"}`)
			assert.Equal(t, c.status, got.status, "%s %s", path, name)
			assert.Equal(t, c.detail, got.problem(t)["detail"], "%s %s", path, name)
			assert.Equal(t, c.status == 503, got.header.Get("Retry-After") == "1", "%s %s", path, name)
			assert.NotContains(t, got.body, "10.1.2.3")
		}
	}
}

// TestReleaseAndRenew_areProtected as the other routes are, with a token and without.
func TestReleaseAndRenew_areProtected(t *testing.T) {
	const body = `{"permit":"a"}`
	p := &permits{released: true, lease: time.Second}
	withToken := testConfig()
	withToken.APIToken = "s3cret-token"
	addr := start(t, withToken, p)
	elsewhere := startFor(t, "192.0.2.1", testConfig(), p)
	for _, path := range []string{"/v1/release", "/v1/renew"} {
		assert.Equal(t, 401, post(t, addr, path, body).status, path)
		got := call(t, "POST", "http://"+elsewhere+path, body, "Content-Type", "application/json")
		assert.Equal(t, 403, got.status, path)
		assert.Contains(t, got.problem(t)["detail"], "VELOCITY_API_TOKEN")
	}
	require.Empty(t, p.asked)
	for _, path := range []string{"/v1/release", "/v1/renew"} {
		got := call(t, "POST", "http://"+addr+path, body, "Content-Type", "application/json", "Authorization", "Bearer s3cret-token")
		assert.Equal(t, 200, got.status, path)
	}
}

// TestForwardAuth_aConcurrencyLimitIsNotImplemented: no one would release the permit. The status is 501 whatever is asked for,
// lest it look like a denial.
func TestForwardAuth_aConcurrencyLimitIsNotImplemented(t *testing.T) {
	cfg := testConfig()
	cfg.TrustedProxies = []string{"loopback"}
	addr := start(t, cfg, limiterFunc(func(req policy.Request) (decision.Decision, error) {
		assert.False(t, req.HoldsPermit || req.Hold)
		assert.Zero(t, req.MaxWait, "the request that the proxy holds back is not held here, too")
		return decision.Decision{}, fmt.Errorf("policy parallel at 10.1.2.3: %w", ports.ErrCannotHold)
	}))
	for _, query := range []string{"", "?denied=403"} {
		got := call(t, "GET", "http://"+addr+"/v1/forward-auth"+query, "", "X-Forwarded-Uri", "/a")
		assert.Equal(t, 501, got.status, query)
		assert.Contains(t, got.problem(t)["detail"], "the policy has a concurrency limit, and here no one learns when a request ends")
		assert.NotContains(t, got.body, "10.1.2.3")
		assert.Empty(t, got.header.Get("RateLimit-Policy"))
	}
}
