package test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// forBrowsers is a policy file whose denials are answered by the file denied.html beside it.
const forBrowsers = `
policies:
  - name: default
    key: header:X-API-Key
    missing_key: refuse
    limits: [ { rate: 1/h, capacity: 1 } ]
    skip_preflight: true
    denied: { content_type: text/html, body_file: denied.html }
`

func TestBrowsers_preflightsAndDenialsOnEveryEntryPoint(t *testing.T) {
	asked := map[string]int{}
	upstream := startAPI(t, func(_ http.ResponseWriter, r *http.Request) { asked[r.Method]++ })
	preflight := []string{"Origin: https://app.example.com", "Access-Control-Request-Method: GET"}
	for name, c := range map[string]struct {
		settings harness.Settings
		path     string
		headers  []string
	}{
		"in front of an upstream": {harness.Settings{"VELOCITY_UPSTREAM_URL": upstream}, "/orders", nil},
		"forward-auth": {
			harness.Settings{"VELOCITY_TRUSTED_PROXIES": "loopback"}, "/v1/forward-auth", []string{"X-Forwarded-Uri: /orders", "X-Forwarded-For: 192.0.2.1"},
		},
	} {
		file := harness.WriteFile(t, "policies.yaml", forBrowsers)
		body := filepath.Join(filepath.Dir(file), "denied.html")
		require.NoError(t, os.WriteFile(body, []byte("<p>{retry_after} {limit}</p>"), 0o600))
		c.settings["VELOCITY_POLICY_FILE"], c.settings["VELOCITY_CORS_ORIGINS"] = file, "https://app.example.com"
		p := harness.Start(t, c.settings)
		ask := func(method string, headers ...string) harness.Response {
			return p.MustDo(method, p.URL+c.path, "", append(headers, c.headers...)...)
		}
		for range 3 {
			got := ask(http.MethodOptions, preflight...)
			assert.Equal(t, http.StatusOK, got.Status, "%s: %s", name, got.Body)
			assert.Empty(t, got.Header.Get("X-RateLimit-Limit"), name)
			assert.Empty(t, got.Header.Get("Access-Control-Allow-Origin"), name)
		}
		assert.InDelta(t, 3, p.Metric("velocity_decisions_total", `outcome="exempt"`), 0, name)
		assert.Equal(t, http.StatusUnauthorized, ask(http.MethodOptions).Status, "%s: no preflight", name)
		assert.Equal(t, http.StatusUnauthorized, ask(http.MethodGet, preflight[0]).Status, name)
		assert.Equal(t, http.StatusOK, ask(http.MethodGet, "X-API-Key: k").Status, name)

		got := ask(http.MethodGet, "X-API-Key: k", preflight[0])
		assert.Equal(t, http.StatusTooManyRequests, got.Status, name)
		assert.Equal(t, "text/html; charset=utf-8", got.Header.Get("Content-Type"), name)
		assert.Equal(t, "https://app.example.com", got.Header.Get("Access-Control-Allow-Origin"), name)
		assert.Equal(t, fmt.Sprintf("<p>%s 1</p>", got.Header.Get("Retry-After")), got.Body, name)

		require.NoError(t, os.WriteFile(body, []byte("<p>another page</p>"), 0o600))
		assert.Eventually(t, func() bool { return ask(http.MethodGet, "X-API-Key: k").Body == "<p>another page</p>" },
			harness.Timeout, harness.Interval, "%s: the file is followed", name)
		p.Stop()
	}
	assert.Equal(t, map[string]int{http.MethodOptions: 3, http.MethodGet: 1}, asked, "what reached the upstream")
}

func TestBrowsers_wrongSettingsAreNamed(t *testing.T) {
	code, _, stderr := command(t, harness.Settings{"VELOCITY_CORS_ORIGINS": "app.example.com", "VELOCITY_LIMIT_HEADERS": "none"})
	assert.Equal(t, 2, code)
	assert.Contains(t, stderr, `VELOCITY_CORS_ORIGINS: "app.example.com": must be scheme://host`)
	assert.Contains(t, stderr, `VELOCITY_LIMIT_HEADERS: "none": must be x-ratelimit, ratelimit`)
}
