package policies

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

const forBrowsers = `
policies:
  - name: pages
    match: { path: /pages/** }
    limits: [ { rate: 1/s, capacity: 2 } ]
    denied: { status: 503, content_type: text/html, body: "<p>Try again in {retry_after} s.</p>" }
  - name: trial
    match: { path: /trial/** }
    limits: [ { rate: 1/s, capacity: 2 } ]
    mode: shadow
    denied: { status: 503 }
  - name: default
    key: header:X-Key
    missing_key: refuse
    limits: [ { rate: 1/s, capacity: 2 } ]
    skip_preflight: true
    denied: { status: 420 }
`

func TestValidate_showsAnswersAndPreflights(t *testing.T) {
	assert.Contains(t, output(t, "validate", policyFile(t, forBrowsers)), `
pages: a denial is answered with 503 and a body of its own, text/html; charset=utf-8
trial: shadow mode, no request is denied; denied has no effect in shadow mode
default: a request without the key is refused, 401; CORS preflights cost nothing; a denial is answered with 420
`)
}

func TestExplain_showsAnswersAndPreflights(t *testing.T) {
	file := policyFile(t, forBrowsers)
	explain := func(args ...string) string {
		return output(t, append([]string{"explain", "-policies", file}, args...)...)
	}
	assert.Contains(t, explain("GET", "/pages/a"), "\npages: a denial is answered with 503 and a body of its own, text/html; charset=utf-8\n")
	assert.Contains(t, explain("GET", "/trial/a"), "\ntrial: denied has no effect in shadow mode\n")
	preflight := []string{"OPTIONS", "/a", "-H", "Origin: https://app.example.com", "-H", "Access-Control-Request-Method: POST"}
	assert.Contains(t, explain(preflight...), "\nclient 127.0.0.1 (the request has no value for the policy's key, so the address stands in): "+
		"a CORS preflight, which costs nothing\n")
	assert.Contains(t, explain("OPTIONS", "/a"), "refused, 401")
}
