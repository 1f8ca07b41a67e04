package httpproxy_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/denial"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

const (
	page    = "https://app.example.com"
	exposed = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Store, X-RateLimit-Shadow, Retry-After"
)

// corsPlane serves in front of an upstream that answers with these headers, as pairs, but for the path /denied.
func corsPlane(t *testing.T, upstream ...string) string {
	t.Helper()
	cfg := proxyConfig(startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(upstream); i += 2 {
			w.Header().Add(upstream[i], upstream[i+1])
		}
	}))
	cfg.CORSOrigins = []string{page}
	denied, allowed := decided(t, 0, 1, false), decided(t, 9, 1, true)
	return "http://" + start(t, cfg, limiterFunc(func(req policy.Request) (decision.Decision, error) {
		if req.Path == "/denied" {
			return denied, nil
		}
		return allowed, nil
	}))
}

func TestCORS_ourOwnAnswers(t *testing.T) {
	url := corsPlane(t)
	for path, status := range map[string]int{"/denied": 429, "/%2f": 400} {
		got := call(t, "GET", url+path, "", "Origin", page)
		assert.Equal(t, status, got.status)
		assert.Equal(t, page, got.header.Get("Access-Control-Allow-Origin"))
		assert.Equal(t, exposed, got.header.Get("Access-Control-Expose-Headers"))
		assert.Equal(t, []string{"Origin"}, got.header.Values("Vary"))
		assert.Empty(t, got.header.Values("Access-Control-Allow-Credentials"))
		for _, other := range []string{"https://evil.example", "null", ""} {
			got = call(t, "GET", url+path, "", "Origin", other)
			assert.Empty(t, got.header.Values("Access-Control-Allow-Origin"), other)
			assert.Empty(t, got.header.Values("Access-Control-Expose-Headers"), other)
			assert.Equal(t, []string{"Origin"}, got.header.Values("Vary"), other)
		}
	}
}

func TestCORS_theUpstreamsAnswerIsAddedTo(t *testing.T) {
	for name, c := range map[string]struct {
		upstream              []string
		allow, exposes, varys string
	}{
		"nothing of its own":     {nil, "", exposed, "Origin"},
		"its own origins":        {[]string{"Access-Control-Allow-Origin", "*"}, "*", exposed, "Origin"},
		"its own headers":        {[]string{"Access-Control-Expose-Headers", "X-Total", "Access-Control-Expose-Headers", "ETag"}, "", "X-Total, ETag, " + exposed, "Origin"},
		"its own Vary":           {[]string{"Vary", "Accept-Encoding"}, "", exposed, "Accept-Encoding, Origin"},
		"the same Vary":          {[]string{"Vary", "Accept, origin"}, "", exposed, "Accept, origin"},
		"a Vary of everything":   {[]string{"Vary", "*"}, "", exposed, "*"},
		"credentials of its own": {[]string{"Access-Control-Allow-Origin", page}, page, exposed, "Origin"},
	} {
		got := call(t, "GET", corsPlane(t, c.upstream...)+"/", "", "Origin", page)
		assert.Equal(t, 200, got.status, name)
		assert.Equal(t, c.allow, got.header.Get("Access-Control-Allow-Origin"), name)
		assert.Equal(t, []string{c.exposes}, got.header.Values("Access-Control-Expose-Headers"), name)
		assert.Equal(t, []string{c.varys}, got.header.Values("Vary"), name)
	}
	url := corsPlane(t, "Access-Control-Expose-Headers", "X-Total")
	got := call(t, "GET", url+"/", "", "Origin", "https://evil.example")
	assert.Equal(t, "X-Total", got.header.Get("Access-Control-Expose-Headers"), "of another origin")
}

func TestCORS_anUpstreamThatFailsIsAnsweredByUs(t *testing.T) {
	cfg := proxyConfig("http://127.0.0.1:1")
	cfg.CORSOrigins = []string{page}
	got := call(t, "GET", "http://"+start(t, cfg, always(decided(t, 9, 1, true))), "", "Origin", page)
	assert.Equal(t, 502, got.status)
	assert.Equal(t, page, got.header.Get("Access-Control-Allow-Origin"))
}

// TestLimitHeaders_ofAFamilyThatIsNotSentAreTheUpstreams: what we send replaces the upstream's of the same name.
func TestLimitHeaders_ofAFamilyThatIsNotSentAreTheUpstreams(t *testing.T) {
	cfg := proxyConfig(startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{"X-RateLimit-Limit", "RateLimit", "X-RateLimit-Store"} {
			w.Header().Set(name, "upstream")
		}
	}))
	cfg.LimitHeaders = []string{"ratelimit"}
	got := call(t, "GET", "http://"+start(t, cfg, always(decided(t, 9, 1, true))), "")
	assert.Equal(t, "upstream", got.header.Get("X-RateLimit-Limit"))
	assert.Empty(t, got.header.Get("X-RateLimit-Remaining"))
	assert.Equal(t, `"burst";r=9;t=1`, got.header.Get("RateLimit"))
	assert.Empty(t, got.header.Get("X-RateLimit-Store"), "which is ours in any case")
}

func TestDenied_thePolicysOwnAnswer(t *testing.T) {
	own, err := denial.New(503, "text/html", "<p>{limit} {retry_after} {request_id}</p>")
	require.NoError(t, err)
	d := decided(t, 0, 1, false)
	d.AppliedPolicy = &policy.Policy{Name: "default", Denied: own}
	url := startUpstream(t, func(http.ResponseWriter, *http.Request) { t.Error("the upstream was asked") })
	got := call(t, "GET", "http://"+start(t, proxyConfig(url), always(d))+"/a", "", "X-Request-Id", "id-1")
	assert.Equal(t, 503, got.status)
	assert.Equal(t, "text/html; charset=utf-8", got.header.Get("Content-Type"))
	assert.Equal(t, "<p>10 1 id-1</p>", got.body)
	assert.Equal(t, "1", got.header.Get("Retry-After"))

	d.Outcome = decision.OutcomeBlocked
	got = call(t, "GET", "http://"+start(t, proxyConfig(url), always(d))+"/a", "")
	assert.Equal(t, 403, got.status)
	got.problem(t)
}
