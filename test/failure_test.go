package test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// startOnDeadRedis starts the service on a Redis that then dies.
func startOnDeadRedis(t *testing.T, mode string) (*process, *redistest.Server) {
	t.Helper()
	server := redistest.Start(t)
	p := start(t, settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_RATE": "10/h", "VELOCITY_ON_STORE_FAILURE": mode,
		"VELOCITY_TAKE_TIMEOUT": "1s", // a slow machine is no outage
	})
	a := p.resource()
	require.Equal(t, http.StatusOK, a.status)
	require.Empty(t, a.header.Get("X-RateLimit-Store"), "Redis decided")
	require.Equal(t, "9", a.header.Get("X-RateLimit-Remaining"))
	server.Kill()
	return p, server
}

// assertLogged asserts that the outage is in the log, once, with its cause.
func assertLogged(t *testing.T, p *process, msg string) {
	t.Helper()
	p.stop()
	lines := p.logged(msg)
	require.Len(t, lines, 1, "sampled")
	assert.Equal(t, "error", lines[0]["level"])
	assert.Equal(t, "default", lines[0]["policy"])
	assert.Contains(t, lines[0]["error"], "store unavailable")
}

func TestFailure_open(t *testing.T) {
	p, _ := startOnDeadRedis(t, "open")
	for range 20 {
		a := p.resource()
		require.Equal(t, http.StatusOK, a.status)
		assert.Equal(t, "fallback", a.header.Get("X-RateLimit-Store"))
		assert.Equal(t, "10", a.header.Get("X-RateLimit-Limit"))
		assert.NotEmpty(t, a.header.Get("RateLimit-Policy"))
		assert.NotContains(t, a.header, "X-Ratelimit-Remaining", "no level is known")
		assert.NotContains(t, a.header, "Ratelimit", "no level is known")
	}
	ready := p.mustAsk(http.MethodGet, p.admin+"/readyz", "")
	assert.Equal(t, http.StatusOK, ready.status)
	assert.Equal(t, "degraded", ready.json(t)["state"])
	assertLogged(t, p, "Critical Redis Error: Falling back to Fail-Open Policy")
	assert.Equal(t, "fallback", p.logged("Decision: ALLOWED")[20]["store"])
}

func TestFailure_closed(t *testing.T) {
	p, _ := startOnDeadRedis(t, "closed")
	a := p.resource()
	assert.Equal(t, http.StatusServiceUnavailable, a.status)
	assert.Equal(t, "fallback", a.header.Get("X-RateLimit-Store"))
	assert.NotEmpty(t, a.header.Get("Retry-After"))
	assert.Equal(t, "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity", a.json(t)["type"])
	assert.NotContains(t, a.body, "127.0.0.1", "no address of the store")

	ready := p.mustAsk(http.MethodGet, p.admin+"/readyz", "")
	assert.Equal(t, http.StatusServiceUnavailable, ready.status)
	assert.NotContains(t, ready.body, "127.0.0.1")
	assert.Contains(t, ready.body, `"shard-0"`)
	assert.Equal(t, http.StatusOK, p.mustAsk(http.MethodGet, p.admin+"/healthz", "").status, "the process is well")
	assertLogged(t, p, "Critical Redis Error: Falling back to Fail-Closed Policy")
	assert.Len(t, p.logged("Decision: BLOCKED (503)"), 1)
}

// TestFailure_closedBesideOpen: while one policy still lets pass, the node should get work.
func TestFailure_closedBesideOpen(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	p := start(t, settings{"REDIS_ADDR": server.Addr, "VELOCITY_POLICY_FILE": writePolicies(t, `
policies:
  - { name: strict, match: { path: "/strict" }, limits: [ { rate: 10/h, capacity: 10 } ], on_store_failure: closed }
  - { name: lenient, match: { path: "/**" }, limits: [ { rate: 10/h, capacity: 10 } ], on_store_failure: open }
`)})
	ready := p.mustAsk(http.MethodGet, p.admin+"/readyz", "")
	assert.Equal(t, http.StatusOK, ready.status)
	assert.Equal(t, "degraded", ready.json(t)["state"])
	for policy, want := range map[string]int{"strict": http.StatusServiceUnavailable, "lenient": http.StatusOK} {
		a := p.mustAsk(http.MethodPost, p.url+"/v1/check", `{"policy": "`+policy+`", "key": "alice"}`, "Content-Type: application/json")
		assert.Equal(t, want, a.status, "%s: %s", policy, a.body)
	}
	p.stop()
}

func TestFailure_local(t *testing.T) {
	p, _ := startOnDeadRedis(t, "local")
	for i := range 12 {
		a := p.resource()
		want := http.StatusOK
		if i >= 10 {
			want = http.StatusTooManyRequests // this process counts on its own
		}
		require.Equal(t, want, a.status, "request %d", i+1)
		assert.Equal(t, "fallback", a.header.Get("X-RateLimit-Store"))
		assert.NotEmpty(t, a.header.Get("X-RateLimit-Remaining"))
	}
	assertLogged(t, p, "Critical Redis Error: Falling back to Local Policy")
}

func TestFailure_theServiceRecoversByItself(t *testing.T) {
	p, server := startOnDeadRedis(t, "open")
	require.Equal(t, "fallback", p.resource().header.Get("X-RateLimit-Store"))
	server.Restart()
	require.Eventually(t, func() bool {
		a, err := p.ask(http.MethodGet, p.url+"/api/resource", "")
		return err == nil && a.header.Get("X-RateLimit-Store") == ""
	}, patience, tick)
	p.stop()
}

func TestFailure_theServiceStartsWithoutRedis(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	p := start(t, settings{"REDIS_ADDR": server.Addr, "VELOCITY_TAKE_TIMEOUT": "1s"})
	a := p.resource()
	assert.Equal(t, http.StatusOK, a.status)
	assert.Equal(t, "fallback", a.header.Get("X-RateLimit-Store"))
	const complaint = "A shard does not answer: the failure policy decides for its clients"
	require.Eventually(t, func() bool { return len(p.logged(complaint)) == 1 }, patience, tick)
	assert.Equal(t, "shard-0", p.logged(complaint)[0]["shard"])
	assert.Equal(t, "refused", p.logged(complaint)[0]["kind"])
	assert.Equal(t, "error", p.logged(complaint)[0]["level"])

	server.Restart()
	require.Eventually(t, func() bool {
		a, err := p.ask(http.MethodGet, p.url+"/api/resource", "")
		return err == nil && a.header.Get("X-RateLimit-Store") == ""
	}, patience, tick)
	p.stop()
	require.Len(t, p.logged(complaint), 1, "said once")
	recovered := p.logged("A shard answers again: it decides for its clients")
	require.Len(t, recovered, 1)
	assert.Equal(t, "shard-0", recovered[0]["shard"])
	assert.Positive(t, recovered[0]["outage"])
}

func TestSecrets_areNeverShown(t *testing.T) {
	server := redistest.Start(t, redistest.Args("--requirepass", "hush-redis"))
	vars := settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_REDIS_PASSWORD": "hush-redis", "VELOCITY_API_TOKEN": "hush-api",
		"VELOCITY_ADMIN_TOKEN": "hush-admin", "VELOCITY_LOG_LEVEL": "debug", "VELOCITY_TAKE_TIMEOUT": "1s",
	}
	var shown strings.Builder
	p := start(t, vars)
	require.Equal(t, "9", p.resource().header.Get("X-RateLimit-Remaining"), "the password is right")
	ask := func(method, url, body string, headers ...string) {
		a := p.mustAsk(method, url, body, headers...)
		shown.WriteString(a.body)
	}
	ask(http.MethodPost, p.url+"/v1/check", `{"key":"alice"}`, "Authorization: Bearer hush-api")
	ask(http.MethodPost, p.url+"/v1/check", `{"key":"alice"}`, "Authorization: Bearer hush-api-wrong")
	ask(http.MethodGet, p.admin+"/v1/buckets/default/alice", "", "Authorization: Bearer hush-admin")
	ask(http.MethodGet, p.admin+"/v1/buckets/default/alice", "", "Authorization: Bearer hush-admin-wrong")
	server.Kill()
	ask(http.MethodGet, p.url+"/api/resource", "")
	ask(http.MethodGet, p.admin+"/readyz", "")
	p.stop()
	shown.WriteString(p.stdout.String())

	vars["VELOCITY_REDIS_PASSWORD"] = "hush-wrong"
	server.Restart()
	p = start(t, vars)
	ask(http.MethodGet, p.url+"/api/resource", "")
	const complaint = "A shard does not answer: the failure policy decides for its clients"
	require.Eventually(t, func() bool { return len(p.logged(complaint)) == 1 }, patience, tick)
	p.stop()
	require.NotEmpty(t, p.logged("Critical Redis Error: Falling back to Fail-Open Policy"))
	assert.Equal(t, "auth", p.logged(complaint)[0]["kind"])
	assert.Contains(t, p.logged(complaint)[0]["advice"], "VELOCITY_REDIS_PASSWORD")

	vars["VELOCITY_RATE"] = "wrong"
	_, stdout, stderr := command(t, vars)
	shown.WriteString(stdout + stderr)
	_, stdout, stderr = command(t, vars, "-h")
	shown.WriteString(stdout + stderr)
	assert.NotContains(t, shown.String()+p.stdout.String(), "hush")
}
