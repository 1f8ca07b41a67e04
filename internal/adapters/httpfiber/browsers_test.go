package httpfiber_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/denial"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

const page = "https://app.example.com"

// cors is what an answer says to pages of other origins.
func cors(h http.Header) map[string]string {
	got := map[string]string{}
	for name := range h {
		if name == "Vary" || strings.HasPrefix(name, "Access-Control-") {
			got[name] = strings.Join(h.Values(name), ", ")
		}
	}
	return got
}

const exposed = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Store, X-RateLimit-Shadow, Retry-After"

var (
	readable = map[string]string{"Vary": "Origin", "Access-Control-Allow-Origin": page, "Access-Control-Expose-Headers": exposed}
	unread   = map[string]string{"Vary": "Origin"}
)

func TestCORS_pagesReadOurOwnAnswers(t *testing.T) {
	cfg := testConfig()
	cfg.CORSOrigins, cfg.TrustedProxies = []string{page}, []string{"loopback"}
	denied, allowed := decided(t, 0, 1, false), decided(t, 9, 1, true)
	addr := start(t, cfg, limiterFunc(func(req policy.Request) (decision.Decision, error) {
		if req.Path == "/api/resource" || req.Path == "/denied" {
			return denied, nil
		}
		return allowed, nil
	}))
	url := "http://" + addr
	for path, status := range map[string]int{"/api/resource": 429, "/openapi.yaml": 200, "/none": 404, "/%2f": 400} {
		got := call(t, "GET", url+path, "", "Origin", page)
		assert.Equal(t, status, got.status, path)
		assert.Equal(t, readable, cors(got.header), path)
		assert.Equal(t, unread, cors(call(t, "GET", url+path, "", "Origin", "https://evil.example").header), path)
		assert.Equal(t, unread, cors(call(t, "GET", url+path, "").header), path)
	}
	forwardAuth := func(uri string) answer {
		return call(t, "GET", url+"/v1/forward-auth", "", "Origin", page, "X-Forwarded-Uri", uri)
	}
	got := forwardAuth("/denied")
	assert.Equal(t, 429, got.status)
	assert.Equal(t, readable, cors(got.header))
	got = forwardAuth("/allowed")
	assert.Equal(t, 200, got.status)
	assert.Equal(t, map[string]string{"Vary": "Origin", "Access-Control-Expose-Headers": exposed}, cors(got.header),
		"the upstream says who may read its answer")
}

func TestCORS_nothingIsAddedWithoutOrigins(t *testing.T) {
	addr := start(t, testConfig(), always(decided(t, 0, 1, false)))
	assert.Empty(t, cors(call(t, "GET", "http://"+addr+"/api/resource", "", "Origin", page).header))
}

func TestLimitHeaders_onlyTheFamiliesThatAreChosen(t *testing.T) {
	cfg := testConfig()
	cfg.LimitHeaders, cfg.CORSOrigins, cfg.TrustedProxies = []string{"ratelimit"}, []string{"*"}, []string{"loopback"}
	denied := decided(t, 0, 1, false)
	denied.Store = decision.StoreFallback
	addr := start(t, cfg, always(denied))
	for _, path := range []string{"/api/resource", "/v1/forward-auth"} {
		got := call(t, "GET", "http://"+addr+path, "", "Origin", page, "X-Forwarded-Uri", "/")
		assert.Equal(t, 429, got.status, path)
		for _, name := range []string{"RateLimit", "RateLimit-Policy", "Retry-After", "X-RateLimit-Store"} {
			assert.NotEmpty(t, got.header.Get(name), "%s: %s", path, name)
		}
		for _, name := range []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Retry-After"} {
			assert.Empty(t, got.header.Get(name), "%s: %s", path, name)
		}
		assert.Equal(t, "RateLimit, RateLimit-Policy, X-RateLimit-Store, X-RateLimit-Shadow, Retry-After", got.header.Get("Access-Control-Expose-Headers"))
		assert.Equal(t, "*", got.header.Get("Access-Control-Allow-Origin"))
	}
}

// deniedWith is a decision that denies by a policy with this answer.
func deniedWith(t *testing.T, status int, contentType, body string) decision.Decision {
	t.Helper()
	own, err := denial.New(status, contentType, body)
	require.NoError(t, err)
	d := decided(t, 0, 1, false)
	d.AppliedPolicy = &policy.Policy{Name: "default", Denied: own}
	return d
}

func TestDenied_thePolicysOwnAnswer(t *testing.T) {
	cfg := testConfig()
	cfg.TrustedProxies = []string{"loopback"}
	const template = "<p>{limit} {retry_after} {request_id}</p>"
	never := deniedWith(t, 0, "text/html", template)
	never.Limits[0].RetryAfter = domain.Never
	blocked, unavailable := deniedWith(t, 418, "text/html", template), deniedWith(t, 418, "text/html", template)
	blocked.Outcome, unavailable.Outcome = decision.OutcomeBlocked, decision.OutcomeUnavailable
	for name, c := range map[string]struct {
		decision    decision.Decision
		path        string
		status      int
		contentType string
		body        string // "": a problem
	}{
		"a page":                      {deniedWith(t, 503, "text/html", template), "/api/resource", 503, "text/html; charset=utf-8", "<p>10 1 id-1</p>"},
		"the usual status":            {deniedWith(t, 0, "application/json", `{"wait":{retry_after}}`), "/api/resource", 429, "application/json", `{"wait":1}`},
		"a status alone":              {deniedWith(t, 503, "", ""), "/api/resource", 503, "application/problem+json", ""},
		"a cost above the capacity":   {never, "/api/resource", 429, "text/html; charset=utf-8", "<p>10 -1 id-1</p>"},
		"a blocked client":            {blocked, "/api/resource", 403, "application/problem+json", ""},
		"a store that fails":          {unavailable, "/api/resource", 503, "application/problem+json", ""},
		"forward-auth":                {deniedWith(t, 503, "text/html", template), "/v1/forward-auth", 503, "text/html; charset=utf-8", "<p>10 1 id-1</p>"},
		"forward-auth with a status":  {deniedWith(t, 503, "text/html", template), "/v1/forward-auth?denied=403", 403, "text/html; charset=utf-8", "<p>10 1 id-1</p>"},
		"forward-auth, a blocked one": {blocked, "/v1/forward-auth?denied=429", 403, "application/problem+json", ""},
	} {
		addr := start(t, cfg, always(c.decision))
		got := call(t, "GET", "http://"+addr+c.path, "", "X-Request-Id", "id-1", "X-Forwarded-Uri", "/")
		assert.Equal(t, c.status, got.status, name)
		assert.Equal(t, c.contentType, got.header.Get("Content-Type"), name)
		if c.body != "" {
			assert.Equal(t, c.body, got.body, name)
		} else {
			got.problem(t)
		}
		if c.decision.Outcome == decision.OutcomeDenied && name != "a cost above the capacity" {
			assert.Equal(t, "1", got.header.Get("Retry-After"), name)
		}
		head := call(t, "HEAD", "http://"+addr+c.path, "", "X-Forwarded-Uri", "/")
		assert.Equal(t, c.status, head.status, name)
		assert.Empty(t, head.body, name)
	}
}
