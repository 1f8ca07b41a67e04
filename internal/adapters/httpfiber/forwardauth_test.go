package httpfiber_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// startForwardAuth serves to a trusted proxy, and notes what is decided.
func startForwardAuth(t *testing.T, d decision.Decision) (addr string, w *recorder) {
	t.Helper()
	w = new(recorder)
	cfg := testConfig()
	cfg.TrustedProxies = []string{"loopback"}
	return start(t, cfg, limiterFunc(func(req policy.Request) (decision.Decision, error) {
		w.decide(req)
		return d, nil
	})), w
}

func TestForwardAuth_whatEachProxySays(t *testing.T) {
	addr, w := startForwardAuth(t, decided(t, 9, 1, true))
	for name, c := range map[string]struct {
		raw  string
		want string // method host path
	}{
		"Traefik": {
			"GET /v1/forward-auth HTTP/1.1\r\nHost: velocity\r\nX-Forwarded-Method: POST\r\nX-Forwarded-Proto: https\r\n" +
				"X-Forwarded-Host: api.example.com\r\nX-Forwarded-Uri: /orders/./7?x=1\r\nX-Forwarded-For: 192.0.2.7\r\n",
			"POST api.example.com /orders/7 192.0.2.7",
		},
		"nginx": {
			"GET /v1/forward-auth?denied=403 HTTP/1.0\r\nHost: api.example.com\r\nX-Original-Method: PUT\r\n" +
				"X-Original-URI: /orders?x=1\r\nX-Forwarded-For: 192.0.2.7\r\nConnection: close\r\n",
			"PUT api.example.com /orders 192.0.2.7",
		},
		"ingress-nginx": {
			"GET /v1/forward-auth HTTP/1.1\r\nHost: velocity\r\nX-Original-Method: DELETE\r\n" +
				"X-Original-URL: https://API.example.com:8443/orders?x=1\r\nX-Forwarded-For: 192.0.2.7\r\n",
			"DELETE api.example.com:8443 /orders 192.0.2.7",
		},
		"ingress-nginx, root": {
			"GET /v1/forward-auth HTTP/1.1\r\nHost: velocity\r\nX-Original-URL: https://api.example.com\r\n",
			"GET api.example.com / 127.0.0.1",
		},
		"Envoy": {
			"PROPFIND /v1/forward-auth/orders//7?denied=x HTTP/1.1\r\nHost: api.example.com\r\nX-Forwarded-For: 192.0.2.7\r\n",
			"PROPFIND api.example.com /orders/7 192.0.2.7",
		},
		"Envoy, root":           {"GET /v1/forward-auth/ HTTP/1.1\r\nHost: a\r\n", "GET a / 127.0.0.1"},
		"another spelling":      {"GET /v1/./forward%2dauth HTTP/1.1\r\nHost: a\r\nX-Forwarded-Uri: /x\r\n", "GET a /x 127.0.0.1"},
		"HEAD":                  {"GET /v1/forward-auth HTTP/1.1\r\nHost: a\r\nX-Forwarded-Method: HEAD\r\nX-Forwarded-Uri: /x\r\n", "HEAD a /x 127.0.0.1"},
		"two that agree":        {"GET /v1/forward-auth/x HTTP/1.1\r\nHost: a\r\nX-Forwarded-Uri: /./x\r\nX-Original-URL: http://a/x\r\n", "GET a /x 127.0.0.1"},
		"the host of the proxy": {"GET /v1/forward-auth HTTP/1.1\r\nHost: own\r\nX-Original-URI: /x\r\n", "GET own /x 127.0.0.1"},
	} {
		w.reset()
		got := exchange(t, addr, c.raw+"\r\n", 1)[0]
		assert.Equal(t, 200, got.status, "%s: %s", name, got.body)
		assert.Empty(t, got.body, name)
		assert.Equal(t, "9", got.header.Get("X-RateLimit-Remaining"), name)
		require.Len(t, w.decided, 1, name)
		d := w.decided[0]
		assert.Equal(t, c.want, strings.Join([]string{d.Method, d.Host, d.Path, d.Client.String()}, " "), name)
	}
}

// TestForwardAuth_contradictionsAreRefused: a proxy passes on headers that its client has made up.
func TestForwardAuth_contradictionsAreRefused(t *testing.T) {
	addr, w := startForwardAuth(t, decided(t, 9, 1, true))
	for name, c := range map[string]struct{ path, lines, field string }{
		"nothing said":             {"", "", "X-Forwarded-Uri"},
		"empty":                    {"", "X-Forwarded-Uri:\r\n", "X-Forwarded-Uri"},
		"two URIs":                 {"", "X-Forwarded-Uri: /a\r\nX-Original-URI: /b\r\n", "X-Original-Uri"},
		"a URI and a URL":          {"", "X-Forwarded-Uri: /a\r\nX-Original-URL: http://x/b\r\n", "X-Original-Url"},
		"a URI and a path":         {"/a", "X-Forwarded-Uri: /b\r\n", "X-Forwarded-Uri"},
		"queries":                  {"/a?x=1", "X-Forwarded-Uri: /a?x=2\r\n", "X-Forwarded-Uri"},
		"one URI twice":            {"", "X-Forwarded-Uri: /a\r\nx-forwarded-uri: /a\r\n", "X-Forwarded-Uri"},
		"two methods":              {"", "X-Forwarded-Uri: /a\r\nX-Forwarded-Method: GET\r\nX-Original-Method: POST\r\n", "X-Original-Method"},
		"a method and Envoy's own": {"/a", "X-Original-Method: POST\r\n", "X-Original-Method"},
		"a list of methods":        {"", "X-Forwarded-Uri: /a\r\nX-Forwarded-Method: GET, POST\r\n", "X-Forwarded-Method"},
		"two hosts":                {"", "X-Original-URL: http://a/x\r\nX-Forwarded-Host: b\r\n", "X-Forwarded-Host"},
		"a list of hosts":          {"", "X-Forwarded-Uri: /a\r\nX-Forwarded-Host: a, b\r\n", "X-Forwarded-Host"},
		"no path":                  {"", "X-Forwarded-Uri: a\r\n", "X-Forwarded-Uri"},
		"a URL for a URI":          {"", "X-Forwarded-Uri: http://x/a\r\n", "X-Forwarded-Uri"},
		"out of its path":          {"/../../api/resource", "", "path"},
		"out of its path, encoded": {"/%2e%2e/x", "", "path"},
		"denied above the API":     {"?denied=200", "X-Forwarded-Uri: /a\r\n", "denied"},
		"denied twice":             {"?denied=403&denied=401", "X-Forwarded-Uri: /a\r\n", "denied"},
		"denied, no number":        {"?denied=no", "X-Forwarded-Uri: /a\r\n", "denied"},
	} {
		w.reset()
		got := exchange(t, addr, "GET /v1/forward-auth"+c.path+" HTTP/1.1\r\nHost: x\r\n"+c.lines+"\r\n", 1)[0]
		assert.Equal(t, 400, got.status, name)
		assert.Contains(t, got.problem(t)["detail"], c.field+": ", name)
		assert.Empty(t, w.decided, name)
	}
}

func TestForwardAuth_theStatusOfARefusal(t *testing.T) {
	for name, c := range map[string]struct {
		decision decision.Decision
		uri      string
		denied   string
		status   int
	}{
		"denied":                 {decided(t, 0, 1, false), "/a", "", 429},
		"denied as 403":          {decided(t, 0, 1, false), "/a", "?denied=403", 403},
		"denied as 401":          {decided(t, 0, 1, false), "/a", "?denied=401", 401},
		"denied as 429":          {decided(t, 0, 1, false), "/a", "?denied=429", 429},
		"denied as 503":          {decided(t, 0, 1, false), "/a", "?denied=503", 503},
		"closed":                 {fellBack(t, decision.OutcomeUnavailable), "/a", "", 503},
		"closed as 403":          {fellBack(t, decision.OutcomeUnavailable), "/a", "?denied=403", 403},
		"no path that there is":  {decided(t, 9, 1, true), "/%2f", "", 400},
		"no path, as 403":        {decided(t, 9, 1, true), "/%2f", "?denied=403", 403},
		"allowed whatever it is": {decided(t, 9, 1, true), "/a", "?denied=403", 200},
	} {
		addr, _ := startForwardAuth(t, c.decision)
		got := call(t, "GET", "http://"+addr+"/v1/forward-auth"+c.denied, "", "X-Forwarded-Uri", c.uri)
		assert.Equal(t, c.status, got.status, name)
		if c.status == 200 {
			continue
		}
		p := got.problem(t)
		if c.decision.Outcome == decision.OutcomeDenied {
			assert.Equal(t, "1", got.header.Get("Retry-After"), name)
			assert.Equal(t, "https://iana.org/assignments/http-problem-types#quota-exceeded", p["type"], name)
			assert.Equal(t, []any{"burst"}, p["violated-policies"], name)
		}
	}
}

// TestForwardAuth_anUntrustedPeerIsTheClient: what it says of another request is not believed.
func TestForwardAuth_anUntrustedPeerIsTheClient(t *testing.T) {
	core, logged := observer.New(zapcore.WarnLevel)
	w := new(recorder)
	_, addr := startServer(t, testConfig(), limiterFunc(func(req policy.Request) (decision.Decision, error) {
		w.decide(req)
		return decided(t, 9, 1, true), nil
	}), zap.New(core))
	for range 3 {
		got := call(t, "POST", "http://"+addr+"/v1/forward-auth", "", "X-Forwarded-Uri", "/cheap", "X-Forwarded-Method", "GET",
			"X-Forwarded-Host", "other")
		assert.Equal(t, 200, got.status)
	}
	require.Len(t, w.decided, 3)
	assert.Equal(t, "POST /v1/forward-auth "+addr, w.decided[0].Method+" "+w.decided[0].Path+" "+w.decided[0].Host)
	assert.Equal(t, "127.0.0.1", w.decided[0].Client.String())
	require.Len(t, logged.All(), 1, "once")
	assert.Contains(t, logged.All()[0].Message, "VELOCITY_TRUSTED_PROXIES")
}

func TestForwardAuth_keysComeFromTheOriginalHeaders(t *testing.T) {
	k := &keyedBy{header: "x-client-id", allow: decided(t, 9, 1, true)}
	cfg := testConfig()
	cfg.TrustedProxies = []string{"loopback"}
	addr := start(t, cfg, k.limiter())
	url := "http://" + addr + "/v1/forward-auth"
	assert.Equal(t, 200, call(t, "GET", url, "", "X-Forwarded-Uri", "/a", "X-Client-ID", "alice").status)
	assert.Equal(t, 400, call(t, "GET", url, "", "X-Forwarded-Uri", "/a", "X-Client-ID", "a", "X-Client-ID", "b").status)
	assert.Equal(t, []string{"alice"}, k.keys)
}

func TestForwardAuth_needsNoToken(t *testing.T) {
	cfg := testConfig()
	cfg.TrustedProxies, cfg.APIToken = []string{"loopback"}, "0123456789abcdef"
	addr := start(t, cfg, always(decided(t, 9, 1, true)))
	got := call(t, "GET", "http://"+addr+"/v1/forward-auth", "", "X-Forwarded-Uri", "/a", "Authorization", "Bearer of the client")
	assert.Equal(t, 200, got.status)
}
