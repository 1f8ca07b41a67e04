package test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// startOnDeadRedis starts the service, has Redis decide once, and kills Redis.
func startOnDeadRedis(t *testing.T, mode string) (*harness.Process, *redistest.Server) {
	t.Helper()
	server := redistest.Start(t)
	p := harness.Start(t, harness.Settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_RATE": "10/h", "VELOCITY_ON_STORE_FAILURE": mode,
		"VELOCITY_TAKE_TIMEOUT": "1s", // a slow machine must not look like an outage
	})
	a := p.Resource()
	require.Equal(t, http.StatusOK, a.Status)
	require.Empty(t, a.Header.Get("X-RateLimit-Store"), "Redis decided")
	require.Equal(t, "9", a.Header.Get("X-RateLimit-Remaining"))
	server.Kill()
	return p, server
}

// assertLogged stops the service and asserts that its log holds the outage once, with the cause.
func assertLogged(t *testing.T, p *harness.Process, msg string) {
	t.Helper()
	p.Stop()
	lines := p.LogLines(msg)
	require.Len(t, lines, 1, "sampled")
	assert.Equal(t, "error", lines[0]["level"])
	assert.Equal(t, "default", lines[0]["policy"])
	assert.Contains(t, lines[0]["error"], "store unavailable")
}

func TestFailure_open(t *testing.T) {
	p, _ := startOnDeadRedis(t, "open")
	for range 20 {
		a := p.Resource()
		require.Equal(t, http.StatusOK, a.Status)
		assert.Equal(t, "fallback", a.Header.Get("X-RateLimit-Store"))
		assert.Equal(t, "10", a.Header.Get("X-RateLimit-Limit"))
		assert.NotEmpty(t, a.Header.Get("RateLimit-Policy"))
		assert.NotContains(t, a.Header, "X-Ratelimit-Remaining", "no level is known")
		assert.NotContains(t, a.Header, "Ratelimit", "no level is known")
	}
	ready := p.MustDo(http.MethodGet, p.Admin+"/readyz", "")
	assert.Equal(t, http.StatusOK, ready.Status)
	assert.Equal(t, "degraded", ready.JSON(t)["state"])
	assertLogged(t, p, "Critical Redis Error: Falling back to Fail-Open Policy")
	assert.Equal(t, "fallback", p.LogLines("Decision: ALLOWED")[20]["store"])
}

func TestFailure_closed(t *testing.T) {
	p, _ := startOnDeadRedis(t, "closed")
	a := p.Resource()
	assert.Equal(t, http.StatusServiceUnavailable, a.Status)
	assert.Equal(t, "fallback", a.Header.Get("X-RateLimit-Store"))
	assert.NotEmpty(t, a.Header.Get("Retry-After"))
	assert.Equal(t, "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity", a.JSON(t)["type"])
	assert.NotContains(t, a.Body, "127.0.0.1", "no address of the store")

	ready := p.MustDo(http.MethodGet, p.Admin+"/readyz", "")
	assert.Equal(t, http.StatusServiceUnavailable, ready.Status)
	assert.NotContains(t, ready.Body, "127.0.0.1")
	assert.Contains(t, ready.Body, `"shard-0"`)
	assert.Equal(t, http.StatusOK, p.MustDo(http.MethodGet, p.Admin+"/healthz", "").Status, "the process itself works")
	assertLogged(t, p, "Critical Redis Error: Falling back to Fail-Closed Policy")
	assert.Len(t, p.LogLines("Decision: BLOCKED (503)"), 1)
}

// A node with an open policy stays ready while Redis fails, though another policy is closed.
func TestFailure_closedBesideOpen(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	p := harness.Start(t, harness.Settings{"REDIS_ADDR": server.Addr, "VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", `
policies:
  - { name: strict, match: { path: "/strict" }, limits: [ { rate: 10/h, capacity: 10 } ], on_store_failure: closed }
  - { name: lenient, match: { path: "/**" }, limits: [ { rate: 10/h, capacity: 10 } ], on_store_failure: open }
`)})
	ready := p.MustDo(http.MethodGet, p.Admin+"/readyz", "")
	assert.Equal(t, http.StatusOK, ready.Status)
	assert.Equal(t, "degraded", ready.JSON(t)["state"])
	for policy, want := range map[string]int{"strict": http.StatusServiceUnavailable, "lenient": http.StatusOK} {
		a := p.MustDo(http.MethodPost, p.URL+"/v1/check", `{"policy": "`+policy+`", "key": "alice"}`, "Content-Type: application/json")
		assert.Equal(t, want, a.Status, "%s: %s", policy, a.Body)
	}
	p.Stop()
}

func TestFailure_local(t *testing.T) {
	p, _ := startOnDeadRedis(t, "local")
	for i := range 12 {
		a := p.Resource()
		want := http.StatusOK
		if i >= 10 {
			want = http.StatusTooManyRequests // this process counts on its own
		}
		require.Equal(t, want, a.Status, "request %d", i+1)
		assert.Equal(t, "fallback", a.Header.Get("X-RateLimit-Store"))
		assert.NotEmpty(t, a.Header.Get("X-RateLimit-Remaining"))
	}
	assertLogged(t, p, "Critical Redis Error: Falling back to Local Policy")
}

func TestFailure_theServiceRecoversByItself(t *testing.T) {
	p, server := startOnDeadRedis(t, "open")
	require.Equal(t, "fallback", p.Resource().Header.Get("X-RateLimit-Store"))
	server.Restart()
	require.Eventually(t, func() bool {
		a, err := p.Do(http.MethodGet, p.URL+"/api/resource", "")
		return err == nil && a.Header.Get("X-RateLimit-Store") == ""
	}, harness.Timeout, harness.Interval)
	p.Stop()
}

func TestFailure_theServiceStartsWithoutRedis(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	p := harness.Start(t, harness.Settings{"REDIS_ADDR": server.Addr, "VELOCITY_TAKE_TIMEOUT": "1s"})
	a := p.Resource()
	assert.Equal(t, http.StatusOK, a.Status)
	assert.Equal(t, "fallback", a.Header.Get("X-RateLimit-Store"))
	const failed = "A shard does not answer: the failure policy decides for its clients"
	require.Eventually(t, func() bool { return len(p.LogLines(failed)) == 1 }, harness.Timeout, harness.Interval)
	assert.Equal(t, "shard-0", p.LogLines(failed)[0]["shard"])
	assert.Equal(t, "refused", p.LogLines(failed)[0]["kind"])
	assert.Equal(t, "error", p.LogLines(failed)[0]["level"])

	server.Restart()
	require.Eventually(t, func() bool {
		a, err := p.Do(http.MethodGet, p.URL+"/api/resource", "")
		return err == nil && a.Header.Get("X-RateLimit-Store") == ""
	}, harness.Timeout, harness.Interval)
	p.Stop()
	require.Len(t, p.LogLines(failed), 1, "logged once")
	recovered := p.LogLines("A shard answers again: it decides for its clients")
	require.Len(t, recovered, 1)
	assert.Equal(t, "shard-0", recovered[0]["shard"])
	assert.Positive(t, recovered[0]["outage"])
}

func TestSecrets_areNeverShown(t *testing.T) {
	server := redistest.Start(t, redistest.Args("--requirepass", "hush-redis"))
	vars := harness.Settings{
		"REDIS_ADDR": server.Addr, "VELOCITY_REDIS_PASSWORD": "hush-redis", "VELOCITY_API_TOKEN": "hush-api",
		"VELOCITY_ADMIN_TOKEN": "hush-admin", "VELOCITY_LOG_LEVEL": "debug", "VELOCITY_TAKE_TIMEOUT": "1s",
	}
	var shown strings.Builder
	p := harness.Start(t, vars)
	require.Equal(t, "9", p.Resource().Header.Get("X-RateLimit-Remaining"), "the password is right")
	show := func(method, url, body string, headers ...string) {
		a := p.MustDo(method, url, body, headers...)
		shown.WriteString(a.Body)
	}
	show(http.MethodPost, p.URL+"/v1/check", `{"key":"alice"}`, "Authorization: Bearer hush-api")
	show(http.MethodPost, p.URL+"/v1/check", `{"key":"alice"}`, "Authorization: Bearer hush-api-wrong")
	show(http.MethodGet, p.Admin+"/v1/buckets/default/alice", "", "Authorization: Bearer hush-admin")
	show(http.MethodGet, p.Admin+"/v1/buckets/default/alice", "", "Authorization: Bearer hush-admin-wrong")
	server.Kill()
	show(http.MethodGet, p.URL+"/api/resource", "")
	show(http.MethodGet, p.Admin+"/readyz", "")
	p.Stop()
	shown.WriteString(p.Stdout.String())

	vars["VELOCITY_REDIS_PASSWORD"] = "hush-wrong"
	server.Restart()
	p = harness.Start(t, vars)
	show(http.MethodGet, p.URL+"/api/resource", "")
	const failed = "A shard does not answer: the failure policy decides for its clients"
	require.Eventually(t, func() bool { return len(p.LogLines(failed)) == 1 }, harness.Timeout, harness.Interval)
	p.Stop()
	require.NotEmpty(t, p.LogLines("Critical Redis Error: Falling back to Fail-Open Policy"))
	assert.Equal(t, "auth", p.LogLines(failed)[0]["kind"])
	assert.Contains(t, p.LogLines(failed)[0]["advice"], "VELOCITY_REDIS_PASSWORD")

	vars["VELOCITY_RATE"] = "wrong"
	_, stdout, stderr := command(t, vars)
	shown.WriteString(stdout + stderr)
	_, stdout, stderr = command(t, vars, "-h")
	shown.WriteString(stdout + stderr)
	assert.NotContains(t, shown.String()+p.Stdout.String(), "hush")
}
