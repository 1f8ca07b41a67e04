package test

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

const plans = `
policies:
  - { name: beta, match: { path: "/**", headers: { X-Beta: [1, 2] } }, key: "header:X-Account", limits: [ { rate: 1/h, capacity: 7 } ] }
  - name: api
    match: { path: "/**" }
    key: header:X-Account
    limits: [ { name: burst, rate: 1/h, capacity: 10 } ]
    overrides:
      - { keys: [acme], limits: [ { name: burst, capacity: 50 } ] }
      - { when: { "header:X-Plan": [pro, team], ip: 192.0.2.0/24 }, limits: [ { name: burst, capacity: 200 } ] }
      - { when: { "header:X-Plan": [pro, team] }, limits: [ { name: burst, capacity: 100 } ] }
`

func (p *protected) level(t *testing.T, headers ...string) (limit, remaining int) {
	t.Helper()
	got := p.get("/orders", headers...)
	require.Equal(t, http.StatusOK, got.Status, got.Body)
	limit, err := strconv.Atoi(got.Header.Get("X-RateLimit-Limit"))
	require.NoError(t, err)
	remaining, err = strconv.Atoi(got.Header.Get("X-RateLimit-Remaining"))
	require.NoError(t, err)
	return limit, remaining
}

func TestConditions_behindATrustedProxy(t *testing.T) {
	p := protect(t, plans)
	for name, c := range map[string]struct {
		headers []string
		want    int
	}{
		"free":               {[]string{"X-Account: a"}, 10},
		"another plan":       {[]string{"X-Account: b", "X-Plan: gold"}, 10},
		"pro":                {[]string{"X-Account: c", "X-Plan: pro"}, 100},
		"team from a site":   {[]string{"X-Account: d", "X-Plan: team", "X-Forwarded-For: 192.0.2.7"}, 200},
		"a site alone":       {[]string{"X-Account: e", "X-Forwarded-For: 192.0.2.7"}, 10},
		"the key goes first": {[]string{"X-Account: acme", "X-Plan: pro"}, 50},
		"a match by header":  {[]string{"X-Account: f", "X-Plan: pro", "X-Beta: 2"}, 7},
		"another beta":       {[]string{"X-Account: g", "X-Plan: pro", "X-Beta: 3"}, 100},
	} {
		limit, remaining := p.level(t, c.headers...)
		assert.Equal(t, c.want, limit, name)
		assert.Equal(t, c.want-1, remaining, name)
	}
	for _, header := range []string{"X-Plan", "X-Beta"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL+"/orders", http.NoBody)
		require.NoError(t, err)
		req.Header[header] = []string{"1", "1"}
		got, err := harness.Send(p.Client, req, "X-Account: a")
		require.NoError(t, err)
		assert.Equal(t, http.StatusBadRequest, got.Status, "%s, sent twice", header)
	}
	limit, remaining := p.level(t, "X-Account: c") // the plan has ended
	assert.Equal(t, []int{10, 9}, []int{limit, remaining}, "one bucket, converted")

	body := func(attributes string) string {
		return `{"policy": "api", "key": "k", "cost": 0, "attributes": {` + attributes + `}}`
	}
	for attributes, want := range map[string]float64{`"header:x-plan": "pro"`: 100, `"header:X-Plan": "team", "ip": "192.0.2.1"`: 200, `"header:x-plan": ""`: 10, ``: 10} {
		got := p.check(body(attributes))
		require.Equal(t, http.StatusOK, got.Status, got.Body)
		assert.Equal(t, want, got.JSON(t)["limit"], attributes) //nolint:testifylint // a whole number
	}
	p.Stop()
	assert.Empty(t, p.LogLines(ignoredHeader))
}

const ignoredHeader = "A header that decides limits is ignored, because an untrusted peer sent it; if the peer is a proxy that sets or clears this header, " +
	"set VELOCITY_TRUSTED_PROXIES"

// A client that reaches the service without the proxy cannot say its own plan, on any way in.
func TestConditions_ofAnUntrustedPeerAreIgnoredAndLoggedOnce(t *testing.T) {
	upstream := protect(t, plans)
	for name, c := range map[string]struct {
		path     string
		settings harness.Settings
	}{
		"the resource":            {"/api/resource", harness.Settings{}},
		"forward-auth":            {"/v1/forward-auth", harness.Settings{}},
		"in front of an upstream": {"/orders", harness.Settings{"VELOCITY_UPSTREAM_URL": upstream.URL}},
	} {
		t.Run(name, func(t *testing.T) {
			c.settings["VELOCITY_POLICY_FILE"] = harness.WriteFile(t, "policies.yaml", plans)
			p := harness.Start(t, c.settings)
			for range 3 {
				got := p.MustDo(http.MethodGet, p.URL+c.path, "", "X-Account: u", "X-Plan: pro", "X-Forwarded-Uri: /orders")
				assert.Equal(t, "10", got.Header.Get("X-RateLimit-Limit"))
			}
			p.Stop()
			lines := p.LogLines(ignoredHeader)
			require.Len(t, lines, 1)
			assert.Equal(t, "x-plan", lines[0]["header"])
		})
	}
}
