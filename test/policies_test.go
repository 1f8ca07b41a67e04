package test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// protected is a service with a policy file, before an upstream, over three shards. The upstream answers with the status
// in X-Answer. The service trusts the test as a proxy, so that it can act as any client.
type protected struct {
	*harness.Process
	file  string
	addrs []string
}

func protect(t *testing.T, policies string) *protected {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusOK
		if wanted := r.Header.Get("X-Answer"); wanted != "" {
			_, _ = fmt.Sscan(wanted, &status) // a wrong value is a mistake of the test, and fails it
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(upstream.Close)
	_, addrs := redistest.StartN(t, 3)
	path := harness.WriteFile(t, "policies.yaml", policies)
	return &protected{harness.Start(t, harness.Settings{
		"VELOCITY_POLICY_FILE": path, "VELOCITY_REDIS_ADDRS": strings.Join(addrs, ","), "VELOCITY_UPSTREAM_URL": upstream.URL,
		"VELOCITY_TRUSTED_PROXIES": "loopback", "VELOCITY_API_TOKEN": "api-token",
		"VELOCITY_TAKE_TIMEOUT": "20s", "VELOCITY_ON_STORE_FAILURE": "closed", // so that only Redis ever allows
	}), path, addrs}
}

func (p *protected) get(path string, headers ...string) harness.Response {
	p.T.Helper()
	return p.MustDo(http.MethodGet, p.URL+path, "", headers...)
}

func (p *protected) check(body string) harness.Response {
	p.T.Helper()
	return p.MustDo(http.MethodPost, p.URL+"/v1/check", body, "Authorization: Bearer api-token")
}

// keys returns the keys of the buckets of all shards, sorted.
func (p *protected) keys() []string {
	p.T.Helper()
	var all []string
	for _, addr := range p.addrs {
		shard := redis.NewClient(&redis.Options{Addr: addr})
		keys, err := shard.Keys(p.T.Context(), "velocity:{*:*}").Result() // not the probes
		require.NoError(p.T, err)
		require.NoError(p.T, shard.Close())
		all = append(all, keys...)
	}
	slices.Sort(all)
	return all
}

func TestPolicies_firstThatMatchesApplies(t *testing.T) {
	p := protect(t, `
policies:
  - { name: write,  match: { methods: [POST], path: "/api/**" },               limits: [ { rate: 1/h, capacity: 101 } ] }
  - { name: search, match: { host: "*.example.com", path: "/api/search/**" }, limits: [ { rate: 1/h, capacity: 102 } ] }
  - { name: items,  match: { path: "/api/*/items" },                          limits: [ { rate: 1/h, capacity: 103 } ] }
  - { name: edge,   match: { domain: edge, descriptor: [a] },                 limits: [ { rate: 1/h, capacity: 104 } ] }
  - { name: home,   match: { path: / },                                       limits: [ { rate: 1/h, capacity: 105 } ] }
`)
	for _, c := range []struct{ method, host, path, limit string }{
		{"POST", "x", "/api/search/a", "101"},
		{"GET", "API.example.com:80", "/api/search", "102"},
		{"HEAD", "a.b.example.com", "/api/search/a/b", "102"},
		{"GET", "a.example.com", "/api/./%73earch//a/../b", "102"}, // in another spelling
		{"GET", "example.com", "/api/search/a", ""},
		{"GET", "x", "/api/7/items", "103"},
		{"GET", "x", "/api/7/items/", "103"},
		{"GET", "x", "/API/7/items", ""},
		{"GET", "x", "/", "105"},
		{"GET", "x", "/other", ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, p.URL, http.NoBody)
		require.NoError(t, err)
		req.Host, req.URL.Opaque = c.host, c.path
		resp, err := p.Client.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, http.StatusOK, resp.StatusCode, "%v", c)
		assert.Equal(t, c.limit, resp.Header.Get("X-RateLimit-Limit"), "%v", c)
	}
	p.Stop()
}

func TestPolicies_eachKeyHasItsBucket(t *testing.T) {
	const limits = "limits: [ { rate: 1/h, capacity: 1 } ]"
	p := protect(t, `
policies:
  - { name: ip,     match: { path: /ip },     key: ip,     `+limits+` }
  - { name: site,   match: { path: /site },   key: ip/48,  `+limits+` }
  - { name: header, match: { path: /header }, key: "header:X-Tenant", `+limits+` }
  - { name: cookie, match: { path: /cookie }, key: "cookie:sid", `+limits+` }
  - { name: query,  match: { path: /query },  key: "query:api_key", `+limits+` }
  - { name: global, match: { path: /global }, key: global, `+limits+` }
  - { name: list,   match: { path: /list },   key: [ip, "header:X-Tenant"], `+limits+` }
`)
	from := func(client string) string { return "X-Forwarded-For: " + client }
	for _, c := range []struct {
		path, client, header, key string
		missing                   bool
	}{
		{"/ip", "2001:db8:1:2::1", "", "ip:ip=2001%3Adb8%3A1%3A2%3A%3A/64", false},
		{"/site", "2001:db8:1:2::1", "", "site:ip/48=2001%3Adb8%3A1%3A%3A/48", false},
		{"/header", "192.0.2.1", "X-Tenant: acme", "header:h:x-tenant=acme", false},
		{"/header", "192.0.2.1", "X-Tenant: ip=192.0.2.1", "header:h:x-tenant=ip%3D192.0.2.1", false},
		{"/header", "192.0.2.1", "X-Other: a", "header:ip=192.0.2.1", true},
		{"/cookie", "192.0.2.1", "Cookie: a=b; sid=S1", "cookie:c:sid=S1", false},
		{"/cookie", "192.0.2.1", "Cookie: sid=", "cookie:ip=192.0.2.1", true},
		{"/query?api_key=a%20%26b", "192.0.2.1", "", "query:q:api_key=a %26b", false},
		{"/query?other=a", "192.0.2.1", "", "query:ip=192.0.2.1", true},
		{"/global", "192.0.2.1", "", "global:g=", false},
		{"/list", "192.0.2.1", "X-Tenant: a&ip=b", "list:ip=192.0.2.1&h:x-tenant=a%26ip%3Db", false},
		{"/list", "192.0.2.2", "X-Other: a", "list:ip=192.0.2.2&ip=192.0.2.2", true},
	} {
		headers := []string{from(c.client), "X-Request-Id: " + strings.ReplaceAll(strings.Trim(c.path, "/?=&%"), "/", "-")}
		headers = slices.DeleteFunc(append(headers, c.header), func(h string) bool { return h == "" })
		before := p.keys()
		require.Equal(t, http.StatusOK, p.get(c.path, headers[0], headers[len(headers)-1]).Status, "%v", c)
		require.Equal(t, http.StatusTooManyRequests, p.get(c.path, headers[0], headers[len(headers)-1]).Status, "%v", c)
		made := slices.DeleteFunc(p.keys(), func(k string) bool { return slices.Contains(before, k) })
		assert.Equal(t, []string{"velocity:{" + c.key + "}"}, made, "%v", c)
	}
	assert.Equal(t, http.StatusTooManyRequests, p.get("/site", from("2001:db8:1:ffff::9")).Status, "the same /48")
	assert.Equal(t, http.StatusTooManyRequests, p.get("/global", from("198.51.100.1")).Status, "everybody's")
	p.Stop()
	missing := 0
	for _, line := range p.LogLines("Decision: ALLOWED") {
		if line["keyMissing"] == true {
			missing++
		}
	}
	assert.Equal(t, 4, missing, "the log says where the address stood in")
}

func TestPolicies_duplicateKeysAreRefused(t *testing.T) {
	p := protect(t, `
policies:
  - { name: a, match: { path: /h }, key: "header:X-Tenant", limits: [ { rate: 1/h, capacity: 9 } ] }
  - { name: b, match: { path: /q }, key: "query:k", limits: [ { rate: 1/h, capacity: 9 } ] }
`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.URL+"/h", http.NoBody)
	require.NoError(t, err)
	req.Header["X-Tenant"] = []string{"a", "b"}
	resp, err := p.Client.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, http.StatusBadRequest, resp.StatusCode)
	assert.Equal(t, http.StatusBadRequest, p.get("/q?k=a&k=b").Status)
	assert.Empty(t, p.keys())
	p.Stop()
}

func TestPolicies_rules(t *testing.T) {
	p := protect(t, `
policies:
  - name: rules
    match: { path: /rules }
    key: header:X-Client-ID
    limits: [ { name: burst, rate: 1/h, capacity: 2 }, { name: daily, rate: 1/h, capacity: 50 } ]
    overrides: [ { keys: ["partner-*"], limits: [ { name: burst, rate: 1/h, capacity: 20 } ] } ]
    exempt: ["health-*"]
    block: ["banned-1"]
  - { name: shadow, match: { path: /shadow }, mode: shadow, limits: [ { rate: 1/h, capacity: 1 } ] }
  - { name: cost,   match: { path: /cost },   cost: "header:X-Cost", limits: [ { rate: 1/h, capacity: 10 } ] }
  - { name: fixed,  match: { path: /fixed },  cost: 4, limits: [ { rate: 1/h, capacity: 10 } ] }
  - { name: login,  match: { path: /login },  refund_on: [2xx, 503], limits: [ { rate: 1/h, capacity: 2 } ] }
`)
	rules := func(client string) harness.Response { return p.get("/rules", "X-Client-ID: "+client) }
	assert.Equal(t, "2", rules("a").Header.Get("X-RateLimit-Limit"))
	assert.Equal(t, `"burst";q=20;w=72000, "daily";q=50;w=180000`, rules("partner-7").Header.Get("RateLimit-Policy"))
	for range 5 {
		a := rules("health-1")
		require.Equal(t, http.StatusOK, a.Status)
		require.Empty(t, a.Header.Get("RateLimit-Policy"), "no limit decided")
		a = rules("banned-1")
		require.Equal(t, http.StatusForbidden, a.Status)
		require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"))
	}
	assert.Len(t, p.keys(), 2, "who is exempt or blocked touches no bucket")

	for i, would := range []string{"allowed", "denied", "denied"} {
		a := p.get("/shadow")
		require.Equal(t, http.StatusOK, a.Status, "shadow mode lets pass")
		require.Equal(t, would, a.Header.Get("X-RateLimit-Shadow"), "request %d", i)
		require.Empty(t, a.Header.Get("Retry-After"))
	}

	assert.Equal(t, "7", p.get("/cost", "X-Cost: 3").Header.Get("X-RateLimit-Remaining"))
	assert.Equal(t, "6", p.get("/cost").Header.Get("X-RateLimit-Remaining"))
	assert.Equal(t, http.StatusBadRequest, p.get("/cost", "X-Cost: many").Status)
	for _, cost := range []string{"0", "-1", "2147483648", "99999999999999999999"} {
		assert.Equal(t, http.StatusUnprocessableEntity, p.get("/cost", "X-Cost: "+cost).Status, cost)
	}
	assert.Equal(t, "6", p.get("/fixed").Header.Get("X-RateLimit-Remaining"))

	for range 5 {
		require.Equal(t, http.StatusOK, p.get("/login").Status, "what succeeds costs nothing")
		require.Equal(t, http.StatusServiceUnavailable, p.get("/login", "X-Answer: 503").Status)
	}
	for _, want := range []int{http.StatusUnauthorized, http.StatusUnauthorized, http.StatusTooManyRequests} {
		assert.Equal(t, want, p.get("/login", "X-Answer: 401").Status, "a wrong password costs a token")
	}
	p.Stop()

	var shadow, exempt int
	for _, msg := range []string{"Decision: ALLOWED", "Decision: BLOCKED (429)"} {
		for _, line := range p.LogLines(msg) {
			if line["shadow"] == true {
				shadow++
			}
			if line["exempt"] == true {
				exempt++
			}
		}
	}
	assert.Equal(t, 3, shadow)
	assert.Equal(t, 5, exempt)
	assert.Len(t, p.LogLines("Decision: BLOCKED (403)"), 5)
}

func TestPolicies_costOfAnUntrustedPeerIsIgnored(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", `
policies: [ { name: cost, match: { path: "/**" }, cost: "header:X-Cost", limits: [ { rate: 1/h, capacity: 10 } ] } ]
`)})
	assert.Equal(t, "9", p.Resource("X-Cost: 5").Header.Get("X-RateLimit-Remaining"))
	assert.Equal(t, "8", p.Resource("X-Cost: nonsense").Header.Get("X-RateLimit-Remaining"))
	p.Stop()
}

const tenants = `
policies:
  - name: search
    match: { path: "/search/**" }
    key: header:X-Client-ID
    limits:
      - { name: burst,  rate: 1/h, capacity: 3 }
      - { name: daily,  rate: 1/h, capacity: 100 }
      - { name: tenant, rate: 1/h, capacity: 5, key: header:X-Tenant }
      - { name: all,    rate: 1/h, capacity: 7, key: global }
  - { name: listed, key: header:X-Client-ID, limits: [ { rate: 1/h, capacity: 1 } ], exempt: ["health-*"], block: [banned-1] }
`

func TestPolicies_limitsOfSeveralKeysAreAtomic(t *testing.T) {
	p := protect(t, tenants)
	ask := func(client, tenant string) int {
		return p.get("/search/x", "X-Client-ID: "+client, "X-Tenant: "+tenant).Status
	}
	tokens := func(key, source string) string {
		a := p.MustDo(http.MethodGet, p.Admin+"/v1/buckets/search/"+key+"?source="+source, "")
		require.Equal(t, http.StatusOK, a.Status, a.Body)
		limits := a.JSON(t)["limits"].([]any)
		return fmt.Sprintf("%.0f", limits[0].(map[string]any)["tokens"])
	}
	for range 3 {
		require.Equal(t, 200, ask("a", "t"))
	}
	require.Equal(t, 429, ask("a", "t"), "the client's own")
	require.Equal(t, 200, ask("b", "t"))
	require.Equal(t, 200, ask("b", "t"))
	require.Equal(t, 429, ask("b", "t"), "the tenant's")
	require.Equal(t, 200, ask("c", "u"))
	require.Equal(t, 200, ask("c", "u"))
	require.Equal(t, 429, ask("c", "u"), "everybody's")
	assert.Equal(t, "0", tokens("a", ""))
	assert.Equal(t, "1", tokens("b", "header:x-client-id"), "what a denial took has come back")
	assert.Equal(t, "1", tokens("c", ""))
	assert.Equal(t, "0", tokens("t", "header:x-tenant"))
	assert.Equal(t, "3", tokens("u", "header:X-Tenant"))
	assert.Equal(t, "0", tokens("-", "global"))

	require.Equal(t, 204, p.MustDo(http.MethodDelete, p.Admin+"/v1/buckets/search/-?source=global", "").Status)
	assert.Equal(t, "7", tokens("-", "global"))
	require.Eventually(t, func() bool { return ask("c", "u") == 200 }, harness.Timeout, harness.Interval, "the denial cache holds the denial for too long")
	p.Stop()
}

func TestPolicies_decisionAPI(t *testing.T) {
	p := protect(t, tenants)
	a := p.check(`{"policy": "search", "key": "alice", "attributes": {"header:x-tenant": "acme"}, "cost": 2}`)
	require.Equal(t, http.StatusOK, a.Status, a.Body)
	got := a.JSON(t)
	assert.Equal(t, true, got["allowed"])
	assert.Equal(t, "enforce", got["mode"])
	var names []string
	for _, l := range got["limits"].([]any) {
		names = append(names, l.(map[string]any)["name"].(string))
	}
	assert.Equal(t, []string{"burst", "daily", "tenant", "all"}, names)
	assert.Equal(t, []string{"velocity:{search:g=}", "velocity:{search:h:x-client-id=alice}", "velocity:{search:h:x-tenant=acme}"}, p.keys())

	for body, want := range map[string]string{
		`{"policy": "search", "key": "alice"}`:                                        "attributes.header:x-tenant: must be given",
		`{"policy": "search", "attributes": {"header:x-tenant": "acme"}}`:             "key: must not be empty",
		`{"policy": "search", "key": "alice", "attributes": {"header:x-tenant": ""}}`: "attributes.header:x-tenant: must be given",
	} {
		a := p.check(body)
		assert.Equal(t, http.StatusUnprocessableEntity, a.Status, body)
		assert.Contains(t, a.Body, want)
	}
	assert.Equal(t, http.StatusNotFound, p.check(`{"key": "alice"}`).Status, "there is no policy named default here")

	a = p.MustDo(http.MethodPost, p.URL+"/v1/checks", `{"checks": [
		{"policy": "search", "key": "alice", "attributes": {"header:x-tenant": "acme"}},
		{"policy": "search", "key": "alice", "attributes": {"header:x-tenant": "acme"}},
		{"policy": "search", "key": "bob"},
		{"policy": "search", "key": "bob", "attributes": {"header:x-tenant": "", "ip": "192.0.2.1"}}
	]}`, "Authorization: Bearer api-token")
	require.Equal(t, http.StatusOK, a.Status, a.Body)
	var allowed []any
	for _, r := range a.JSON(t)["results"].([]any) {
		allowed = append(allowed, r.(map[string]any)["allowed"])
	}
	assert.Equal(t, []any{true, false, nil, true}, allowed)

	for client, want := range map[string]bool{"health-1": true, "banned-1": false} {
		a := p.check(`{"policy": "listed", "key": "` + client + `"}`)
		require.Equal(t, http.StatusOK, a.Status, a.Body)
		assert.Equal(t, want, a.JSON(t)["allowed"])
		assert.Equal(t, "policy", a.JSON(t)["store"])
	}

	refund := p.MustDo(http.MethodPost, p.URL+"/v1/refund",
		`{"policy": "search", "key": "alice", "attributes": {"header:x-tenant": "acme"}, "cost": 3}`, "Authorization: Bearer api-token")
	require.Equal(t, http.StatusOK, refund.Status, refund.Body)
	for _, l := range refund.JSON(t)["limits"].([]any) {
		limit := l.(map[string]any)
		if limit["name"] != "all" {
			assert.InDelta(t, limit["limit"], limit["remaining"], 0, "%v", limit["name"])
		}
	}
	p.Stop()
}

func TestPolicies_eachHasItsOwnFailureMode(t *testing.T) {
	policies := `
policies:
  - { name: open,   match: { path: /open },   on_store_failure: open,   limits: [ { rate: 1/h, capacity: 1 } ] }
  - { name: closed, match: { path: /closed }, on_store_failure: closed, limits: [ { rate: 1/h, capacity: 1 } ] }
  - { name: local,  match: { path: /local },  on_store_failure: local,  limits: [ { rate: 1/h, capacity: 1 } ] }
  - { name: unsaid, match: { path: /unsaid },                           limits: [ { rate: 1/h, capacity: 1 } ] }
`
	upstream := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer upstream.Close()
	p := &protected{harness.Start(t, harness.Settings{
		"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", policies), "VELOCITY_UPSTREAM_URL": upstream.URL,
		"REDIS_ADDR": "127.0.0.1:1", "VELOCITY_ON_STORE_FAILURE": "closed",
	}), "", nil}
	for path, want := range map[string][]int{
		"/open": {200, 200, 200}, "/closed": {503, 503, 503}, "/local": {200, 429, 429}, "/unsaid": {503, 503, 503},
	} {
		var got []int
		for range want {
			got = append(got, p.get(path).Status)
		}
		assert.Equal(t, want, got, path)
	}
	p.Stop()
}

func TestPolicies_theSampleAndAThousandLoad(t *testing.T) {
	sample, err := os.ReadFile("../internal/adapters/policyfile/testdata/valid/sample.yaml")
	require.NoError(t, err)
	var thousand strings.Builder
	thousand.WriteString("policies:\n")
	for i := range 1000 {
		fmt.Fprintf(&thousand, "  - { name: p%d, match: { path: \"/p%d/**\" }, limits: [ { rate: 1/h, capacity: %d } ] }\n", i, i, i+1)
	}
	thousand.WriteString("  - { name: last, match: { path: /api/resource }, limits: [ { rate: 1/h, capacity: 7 } ] }\n")
	for policies, limit := range map[string]string{string(sample): "10", thousand.String(): "7"} {
		p := harness.Start(t, harness.Settings{"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", policies)})
		assert.Equal(t, limit, p.Resource().Header.Get("X-RateLimit-Limit"))
		p.Stop()
	}
}

func TestPolicies_brokenFileKeepsTheServiceFromStarting(t *testing.T) {
	path := harness.WriteFile(t, "policies.yaml", "policies:\n  - name: A\n    limits: [ { rate: 5/x, capacity: 1 } ]\n")
	p := harness.Launch(t, harness.Settings{"VELOCITY_POLICY_FILE": path})
	assert.Equal(t, 1, p.Wait())
	assert.Equal(t, []string{
		"velocity: " + path + `:2:11: policies[0].name: "A": must match [a-z0-9][a-z0-9_-]{0,62}`,
		"velocity: " + path + `:3:23: policies[0].limits[0].rate: "5/x": must be <tokens>/<duration>, as in 5/s, 100/m, 1000/h or 3/250ms`,
	}, strings.Split(strings.TrimSpace(p.Stderr.String()), "\n"))

	p = harness.Launch(t, harness.Settings{"VELOCITY_POLICY_FILE": filepath.Join(t.TempDir(), "none.yaml")})
	assert.Equal(t, 2, p.Wait(), "the setting is wrong")
	assert.Contains(t, p.Stderr.String(), "velocity: VELOCITY_POLICY_FILE: open ")
	p = harness.Launch(t, harness.Settings{"VELOCITY_POLICY_FILE": path, "VELOCITY_RATE": "5/s"})
	assert.Equal(t, 2, p.Wait())
	assert.Contains(t, p.Stderr.String(), "VELOCITY_RATE")
}
