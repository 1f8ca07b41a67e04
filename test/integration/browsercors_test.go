//go:build integration

package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/test/harness"
)

// pageOf serves an empty page, and returns its origin.
func pageOf(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<!doctype html><link rel="icon" href="data:,"><title>page</title>`)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// fetched has the page of b send a request, and requires what it can read of the answer: the status, these headers and the body's title,
// or "no answer". options are those of fetch, in JavaScript.
func (b *browser) fetched(url, options, headers, want string) {
	b.t.Helper()
	b.text(fmt.Sprintf(`(window.read = "", fetch(%q, %s).then(async (answer) => {
		const body = await answer.json();
		window.read = [answer.status, ...%s.map((name) => name + "=" + answer.headers.get(name)), body.title].join(" ");
	}).catch(() => { window.read = "no answer"; }))`, url, options, headers))
	b.eventually("window.read", want)
}

func TestBrowser_aPageOfAnotherOriginReadsADenial(t *testing.T) {
	page, other := pageOf(t), pageOf(t)
	var preflights atomic.Int64
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", page)
		if r.Method == http.MethodOptions {
			preflights.Add(1)
			w.Header().Set("Access-Control-Allow-Headers", "X-API-Key")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Access-Control-Expose-Headers", "X-Total")
		w.Header().Set("X-Total", "7")
		_, _ = io.WriteString(w, `{"title": "an order"}`)
	}))
	t.Cleanup(upstream.Close)
	p := harness.Start(t, harness.Settings{
		"VELOCITY_UPSTREAM_URL": upstream.URL, "VELOCITY_CORS_ORIGINS": page,
		"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", `
policies:
  - name: api
    key: header:X-API-Key
    missing_key: refuse
    limits: [ { name: daily, rate: 1/h, capacity: 1 } ]
    skip_preflight: true
`),
	})
	const withKey, headers = `{ headers: { "X-API-Key": "k" }, cache: "no-store" }`, `["Retry-After", "X-RateLimit-Limit", "X-Total"]`
	b := openBrowser(t)
	b.run(chromedp.Navigate(page + "/"))
	b.fetched(p.URL+"/orders", withKey, headers, "200 Retry-After=null X-RateLimit-Limit=1 X-Total=7 an order")
	b.fetched(p.URL+"/orders", withKey, headers, "429 Retry-After=3600 X-RateLimit-Limit=1 X-Total=null Quota exceeded")
	b.fetched(p.URL+"/orders", `{ cache: "no-store" }`, headers, "401 Retry-After=null X-RateLimit-Limit=null X-Total=null Unauthorized")
	b.fetched(p.URL+"/orders", `{ headers: { "X-API-Key": "k" }, credentials: "include", cache: "no-store" }`, headers, "no answer")
	assert.Positive(t, preflights.Load())

	b.run(chromedp.Navigate(other + "/"))
	b.fetched(p.URL+"/orders", `{ cache: "no-store" }`, headers, "no answer")
	b.clearConsole() // a browser reports each refusal
}

func TestBrowser_aPageReadsADenialWithoutAnUpstream(t *testing.T) {
	page := pageOf(t)
	p := harness.Start(t, harness.Settings{
		"VELOCITY_CORS_ORIGINS": page, "VELOCITY_LIMIT_HEADERS": "ratelimit", "VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "1",
	})
	const headers = `["Retry-After", "RateLimit", "X-RateLimit-Limit"]`
	b := openBrowser(t)
	b.run(chromedp.Navigate(page + "/"))
	b.fetched(p.URL+"/openapi.json", `{ cache: "no-store" }`, headers, "404 Retry-After=null RateLimit=null X-RateLimit-Limit=null Not Found")
	p.Resource()
	b.fetched(p.URL+"/api/resource", `{ cache: "no-store" }`, headers,
		`429 Retry-After=3600 RateLimit="default";r=0;t=3600 X-RateLimit-Limit=null Quota exceeded`)
	b.clearConsole() // a browser reports each refusal
}
