package integration

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// contract checks exchanges against the OpenAPI document. Responses are checked strictly: a header or
// member that the document does not describe is a fault. Requests may have any header, since any may be a client's key; the
// document itself forbids other members in their bodies.
type contract struct {
	requests, responses validator.Validator
	paths               []string   // of the data plane
	mu                  sync.Mutex // the library changes schemas while it checks
}

// openContract reads the document once for all tests.
var openContract = sync.OnceValues(func() (*contract, error) {
	text, err := os.ReadFile("../../internal/adapters/httpfiber/openapi.yaml")
	if err != nil {
		return nil, err
	}
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		return nil, err
	}
	model, err := document.BuildV3Model()
	if err != nil {
		return nil, err
	}
	c := &contract{}
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		if len(item.Servers) == 0 { // else it is the admin plane's; on the data plane such a path may be the upstream's
			c.paths = append(c.paths, path)
		}
	}
	options := []config.Option{
		config.WithFormatAssertions(),
		config.WithoutSecurityValidation(), // other tests check who may send what
	}
	var errs []error
	if c.requests, errs = validator.NewValidator(document, options...); len(errs) > 0 {
		return nil, errs[0]
	}
	c.responses, errs = validator.NewValidator(document, append(options, config.WithStrictMode())...)
	return c, errors.Join(errs...)
})

// check fails the test unless the document describes the response and, if the request was carried out, the request.
func (c *contract) check(t *testing.T, e harness.Exchange) {
	t.Helper()
	for _, fault := range c.faults(t, e) {
		assert.Fail(t, "not as openapi.yaml says", "%s: %s %s %s -> %d %s: %v", e.Test, e.Method, e.URL, e.Body, e.Response.Status,
			e.Response.Body, fault)
	}
}

func (c *contract) faults(t *testing.T, e harness.Exchange) (faults []error) {
	if e.Method == http.MethodHead { // has no body to check
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	request := func() *http.Request {
		r, err := http.NewRequestWithContext(t.Context(), e.Method, e.URL, bytes.NewReader(e.Body))
		require.NoError(t, err)
		r.Header = e.Header
		return r
	}
	partly := strings.Contains(e.Response.Body, `"request_id"`) // some of the checks were refused
	if e.Response.Status < http.StatusBadRequest && !partly {
		_, errs := c.requests.ValidateHttpRequestSync(request())
		for _, err := range errs {
			faults = append(faults, err)
		}
	}
	if e.Response.Status == http.StatusMethodNotAllowed { // for methods that the document does not have
		return faults
	}
	_, errs := c.responses.ValidateHttpResponse(request(), &http.Response{
		StatusCode: e.Response.Status, Header: e.Response.Header, Body: io.NopCloser(strings.NewReader(e.Response.Body)),
	})
	for _, err := range errs {
		faults = append(faults, err)
	}
	return faults
}

func TestContract_isServedUnchanged(t *testing.T) {
	p := harness.Start(t, nil)
	want, err := os.ReadFile("../../internal/adapters/httpfiber/openapi.yaml")
	require.NoError(t, err)
	got := p.MustDo(http.MethodGet, p.URL+"/openapi.yaml", "")
	assert.Equal(t, http.StatusOK, got.Status)
	assert.Equal(t, "application/yaml", got.Header.Get("Content-Type"))
	assert.Equal(t, string(want), got.Body)
}

func TestContract_isValid(t *testing.T) {
	c, err := openContract()
	require.NoError(t, err)
	_, errs := c.requests.ValidateDocument()
	assert.Empty(t, errs)
}

// TestContract_describesAPolicysOwnAnswer: the client checks it, and the headers for pages, against the document.
func TestContract_describesAPolicysOwnAnswer(t *testing.T) {
	const origin = "Origin: https://app.example.com"
	p := harness.Start(t, harness.Settings{
		"VELOCITY_CORS_ORIGINS": "https://app.example.com", "VELOCITY_LIMIT_HEADERS": "ratelimit", "VELOCITY_TRUSTED_PROXIES": "loopback",
		"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", `
policies:
  - name: default
    limits: [ { rate: 1/h, capacity: 1 } ]
    denied: { content_type: text/html, body: "<p>{retry_after}</p>" }
`),
	})
	assert.Equal(t, http.StatusOK, p.Resource(origin).Status)
	assert.Equal(t, http.StatusTooManyRequests, p.Resource(origin).Status)
	got := p.MustDo(http.MethodGet, p.URL+"/v1/forward-auth?denied=403", "", "X-Forwarded-Uri: /", origin)
	assert.Equal(t, http.StatusForbidden, got.Status)
	got = p.MustDo(http.MethodGet, p.URL+"/v1/forward-auth", "", "X-Forwarded-Uri: /", "X-Forwarded-For: 192.0.2.1", origin)
	assert.Equal(t, http.StatusOK, got.Status)
}

// These requests get the responses that no other test gets. The client checks them against the document.
func TestContract_describesEveryRefusal(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_API_TOKEN": "token", "VELOCITY_CAPACITY": "2", "VELOCITY_RATE": "1/h"})
	const token = "Authorization: Bearer token"
	large := `{"key":"` + strings.Repeat("a", 70_000) + `"}`
	for _, c := range []struct {
		path, body string
		headers    []string
		want       int
	}{
		{"/v1/check", `{"key":"a"`, []string{token}, http.StatusBadRequest},
		{"/v1/check", `{"key":"a","color":"red"}`, []string{token}, http.StatusBadRequest},
		{"/v1/check", `{"key":"a"}`, nil, http.StatusUnauthorized},
		{"/v1/check", `{"key":"a","policy":"other"}`, []string{token}, http.StatusNotFound},
		{"/v1/check", large, []string{token}, http.StatusRequestEntityTooLarge},
		{"/v1/check", `{"key":"a"}`, []string{token, "Content-Type: text/plain"}, http.StatusUnsupportedMediaType},
		{"/v1/check", `{"key":""}`, []string{token}, http.StatusUnprocessableEntity},
		{"/v1/check", `{"key":"a","cost":3}`, []string{token}, http.StatusOK}, // denied for ever: retry_after_ms is -1
		{"/v1/check", `{"key":"a","attributes":{"header:x-tenant":"acme","ip":"10.0.0.1"}}`, []string{token}, http.StatusOK},
		{"/v1/checks", `{"checks":[{"key":"a"},{"key":"b","cost":-1},{"key":"c","policy":"other"}]}`, []string{token}, http.StatusOK},
		{"/v1/checks", `{"checks":[{"key":"a","attributes":{"tenant":"acme"}},` + large + `]}`, []string{token}, http.StatusOK},
		{"/v1/checks", `{"checks":[]}`, []string{token}, http.StatusOK},
		{"/v1/checks", `{}`, []string{token}, http.StatusBadRequest},
		{"/v1/refund", `{"key":"a","cost":0}`, []string{token}, http.StatusUnprocessableEntity},
		{"/v1/refund", `{"key":"a"}`, []string{token}, http.StatusOK},
		{"/v1/refund", `{"key":"a","taken_at_us":1774785600000000}`, []string{token}, http.StatusOK},
		{"/v1/refund", `{"key":"a","taken_at_us":-1}`, []string{token}, http.StatusUnprocessableEntity},
		{"/v1/charge", `{"key":"a","cost":2147483648}`, []string{token}, http.StatusUnprocessableEntity},
		{"/v1/charge", `{"key":"a","cost":2147483647}`, []string{token}, http.StatusUnprocessableEntity}, // more than any debt
		{"/v1/charge", `{"key":"a"}`, nil, http.StatusUnauthorized},
		{"/v1/check", `{"key":"a","max_wait_ms":3600001}`, []string{token}, http.StatusUnprocessableEntity},
		{"/v1/release", `{}`, []string{token}, http.StatusBadRequest},
		{"/v1/release", `{"permit":"a"}`, nil, http.StatusUnauthorized},
		{"/v1/release", `{"permit":"a"}`, []string{token, "Content-Type: text/plain"}, http.StatusUnsupportedMediaType},
		{"/v1/release", `{"permit":"a","cost":-1}`, []string{token}, http.StatusUnprocessableEntity},
		{"/v1/release", `{"permit":"` + strings.Repeat("a", 1<<20) + `"}`, []string{token}, http.StatusRequestEntityTooLarge},
		{"/v1/renew", `{"permit":"a","cost":1}`, []string{token}, http.StatusBadRequest},
		{"/v1/renew", `{"permit":"a"}`, nil, http.StatusUnauthorized},
		{"/v1/renew", `{"permit":"a"}`, []string{token}, http.StatusUnprocessableEntity},
	} {
		a := p.MustDo(http.MethodPost, p.URL+c.path, c.body, c.headers...)
		assert.Equal(t, c.want, a.Status, "%s %.60s: %s", c.path, c.body, a.Body)
	}
	assert.Equal(t, http.StatusOK, p.Resource().Status)
	assert.Equal(t, http.StatusOK, p.Resource().Status)
	assert.Equal(t, http.StatusTooManyRequests, p.Resource().Status)

	proxied := harness.Start(t, harness.Settings{"VELOCITY_TRUSTED_PROXIES": "loopback", "VELOCITY_CAPACITY": "1", "VELOCITY_RATE": "1/h"})
	for _, c := range []struct {
		method, query string
		want          int
	}{
		{http.MethodGet, "", http.StatusOK},
		{http.MethodPost, "", http.StatusTooManyRequests},
		{http.MethodDelete, "?denied=401", http.StatusUnauthorized},
		{http.MethodGet, "?denied=403", http.StatusForbidden},
		{http.MethodGet, "?denied=503", http.StatusServiceUnavailable},
		{http.MethodGet, "?denied=200", http.StatusBadRequest},
	} {
		a := proxied.MustDo(c.method, proxied.URL+"/v1/forward-auth"+c.query, "",
			"X-Forwarded-For: 192.0.2.1", "X-Forwarded-Method: GET", "X-Forwarded-Uri: /x", "X-Forwarded-Host: api.example")
		assert.Equal(t, c.want, a.Status, "%s %s: %s", c.method, c.query, a.Body)
	}

	open := harness.Start(t, nil)
	a := open.MustDo(http.MethodPost, open.URL+"/v1/check", `{"key":"a"}`, "X-Forwarded-For: 10.0.0.1")
	assert.Equal(t, http.StatusForbidden, a.Status, a.Body)
}

// The tests of the data plane check it on the way. What the admin plane answers is checked here.
func TestContract_describesTheAdminPlane(t *testing.T) {
	c, err := openContract()
	require.NoError(t, err)
	p := harness.Start(t, harness.Settings{
		"VELOCITY_ADMIN_TOKEN": "operator", "VELOCITY_API_TOKEN": "token",
		"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", `
shared:
  - { name: tenant, key: header:X-Tenant, quota: 1000/day, zone: Europe/Berlin }
policies:
  - name: default
    key: header:X-Client-ID
    limits:
      - { name: burst, rate: 1/h, capacity: 5 }
      - { name: daily, quota: 100/day, cost: 1 }
      - { name: parallel, concurrent: 2, lease: 60s }
      - { use: tenant }
    overrides: [ { keys: ["partner-*"], limits: [ { name: burst, capacity: 50 } ] } ]
    denied: { status: 429, content_type: text/html, body: "<p>wait</p>" }
`),
	})
	ask := func(want int, method, path, body string, headers ...string) harness.Response {
		t.Helper()
		header := http.Header{"Authorization": {"Bearer operator"}}
		if body != "" {
			header.Set("Content-Type", "application/json")
		}
		var lines []string
		for _, line := range headers {
			name, value, _ := strings.Cut(line, ": ")
			header.Set(name, value)
		}
		for name := range header {
			lines = append(lines, name+": "+header.Get(name))
		}
		got := p.MustDo(method, p.Admin+path, body, lines...)
		assert.Equal(t, want, got.Status, "%s %s: %s", method, path, got.Body)
		c.check(t, harness.Exchange{Test: t.Name(), Method: method, URL: p.Admin + path, Header: header, Body: []byte(body), Response: got})
		return got
	}
	for range 6 { // the last is denied
		got := p.MustDo(http.MethodPost, p.URL+"/v1/check", `{"key":"alice","attributes":{"header:x-tenant":"acme"}}`, "Authorization: Bearer token")
		require.Equal(t, http.StatusOK, got.Status, got.Body)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/v1/policies", "/v1/top", "/v1/status", "/", "/v1/buckets/default/alice", "/v1/buckets/shared%2Ftenant/acme"} {
		ask(http.StatusOK, http.MethodGet, path, "")
	}
	ask(http.StatusOK, http.MethodPost, "/v1/reload", "")
	ask(http.StatusUnauthorized, http.MethodGet, "/v1/policies", "", "Authorization: Bearer other")
	ask(http.StatusForbidden, http.MethodPost, "/v1/reload", "", "Sec-Fetch-Site: cross-site")
	ask(http.StatusNotFound, http.MethodGet, "/v1/buckets/other/alice", "")
	ask(http.StatusUnprocessableEntity, http.MethodGet, "/v1/buckets/default/alice?source=header:X-Other", "")

	const alice = "/v1/overrides/default/alice"
	ask(http.StatusNotFound, http.MethodGet, alice, "")
	ask(http.StatusOK, http.MethodPut, alice, `{"limits":[{"name":"burst","capacity":50}],"expires_at":"2099-01-31T00:00:00Z","note":"ticket 123"}`)
	ask(http.StatusOK, http.MethodGet, alice, "")
	ask(http.StatusOK, http.MethodGet, "/v1/buckets/default/alice", "")
	ask(http.StatusOK, http.MethodPut, "/v1/overrides/default/bob", `{"block":true}`)
	ask(http.StatusOK, http.MethodGet, "/v1/overrides/default?limit=1", "")
	ask(http.StatusUnprocessableEntity, http.MethodPut, alice, `{"exempt":true,"expires_at":"2000-01-31T00:00:00Z"}`)
	ask(http.StatusBadRequest, http.MethodPut, alice, `{"exempt":`)
	ask(http.StatusUnsupportedMediaType, http.MethodPut, alice, `{"exempt":true}`, "Content-Type: text/plain")
	ask(http.StatusNoContent, http.MethodDelete, alice, "")

	ask(http.StatusOK, http.MethodDelete, "/v1/permits/default/alice/none", "")
	ask(http.StatusOK, http.MethodDelete, "/v1/permits/default/alice", "")
	ask(http.StatusNoContent, http.MethodDelete, "/v1/buckets/default/alice", "")
	ask(http.StatusOK, http.MethodGet, "/v1/top?n=1&policy=default", "")
	ask(http.StatusUnprocessableEntity, http.MethodGet, "/v1/top?n=101", "")
}
