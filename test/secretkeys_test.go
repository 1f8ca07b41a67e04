package test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

const (
	// rawMark is in every value that is a secret, and in nothing else.
	rawMark   = "rAw5ecret"
	keySecret = "0123456789abcdef0123456789abcdef"

	secretPolicies = `
shared:
  - { name: org, key: { from: header:X-Org, secret: true }, quota: 1000000/day, overrides: [ { keys: ["rAw5ecret-big*"], limits: [ { quota: 7/day } ] } ] }
policies:
  - name: cookie
    match: { path: /cookie }
    key: { from: cookie:sid, secret: true }
    limits: [ { rate: 1/h, capacity: 1 } ]
  - name: query
    match: { path: /query }
    key: { from: query:api_key, secret: true }
    limits: [ { rate: 1/h, capacity: 1 }, { use: org } ]
    on_store_failure: closed
  - name: list
    match: { path: /list }
    key: [ip, { from: header:X-API-Key, secret: true }]
    limits: [ { rate: 1/h, capacity: 1 } ]
    on_store_failure: local
  - name: permits
    match: { path: "/permits/**" }
    key: { from: header:X-API-Key, secret: true }
    limits: [ { name: parallel, concurrent: 1 }, { name: tokens, rate: 1/h, capacity: 50 }, { use: org } ]
    overrides: [ { keys: ["rAw5ecret-00*"], limits: [ { name: tokens, rate: 1/h, capacity: 60 } ] } ]
    on_store_failure: local
  - name: default
    key: { from: header:X-API-Key, secret: true }
    missing_key: refuse
    limits: [ { rate: 1/h, capacity: 1 } ]
    exempt: ["rAw5ecret-exempt"]
    block: ["rAw5ecret-blocked"]
`
)

// leaks collects everything that leaves the processes.
type leaks struct {
	t      *testing.T
	whole  strings.Builder
	values int // the raw values so far
}

// raw returns a value that no other call returns.
func (l *leaks) raw() string {
	l.values++
	return fmt.Sprintf("%s-%05d", rawMark, l.values)
}

// send sends a request, and keeps the answer.
func (l *leaks) send(p *harness.Process, method, url, body string, headers ...string) harness.Response {
	l.t.Helper()
	a := p.MustDo(method, url, body, headers...)
	l.add(method+" "+url, fmt.Sprint(a.Status, a.Header, a.Body))
	return a
}

// wholePermits are the texts of permits, of which the second part is base64.
var wholePermits = regexp.MustCompile(`"permit":"[^"]*\.([A-Za-z0-9_-]+)"`)

// add keeps a text that was written somewhere, and reports a raw value in it.
func (l *leaks) add(where, text string) {
	l.t.Helper()
	for _, permit := range wholePermits.FindAllStringSubmatch(text, -1) {
		decoded, err := base64.RawURLEncoding.DecodeString(permit[1])
		require.NoError(l.t, err)
		text += string(decoded)
	}
	if at := strings.Index(strings.ToLower(text), strings.ToLower(rawMark)); at >= 0 {
		assert.Fail(l.t, "a raw value left the process", "%s: ...%s", where, text[max(0, at-300):min(len(text), at+60)])
	}
	l.whole.WriteString(text)
}

func TestSecretKeys_noValueLeavesTheProcess(t *testing.T) {
	redisServer := redistest.Start(t, redistest.Args("--rdbcompression", "no"))
	traces := startCollector(t)
	file := harness.WriteFile(t, "policies.yaml", secretPolicies)
	var passedOn atomic.Int64
	upstream := startAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.RawQuery+fmt.Sprint(r.Header), rawMark) {
			passedOn.Add(1)
		}
		if r.URL.Path == "/permits/broken" {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, "done")
	})
	start := func(more harness.Settings) *harness.Process {
		vars := harness.Settings{
			"VELOCITY_POLICY_FILE": file, "REDIS_ADDR": redisServer.Addr, "VELOCITY_KEY_SECRET": keySecret, "VELOCITY_LOG_LEVEL": "debug",
			"OTEL_EXPORTER_OTLP_ENDPOINT": traces.url, "VELOCITY_TRUSTED_PROXIES": "127.0.0.1", "VELOCITY_TAKE_TIMEOUT": "1s",
		}
		for name, value := range more {
			vars[name] = value
		}
		return harness.Start(t, vars)
	}
	plain, proxy := start(nil), start(harness.Settings{"VELOCITY_UPSTREAM_URL": upstream, "VELOCITY_API_TOKEN": "token"})
	monitor := startMonitor(t, redisServer.Addr)
	l := &leaks{t: t}
	total := 10_000
	if testing.Short() {
		total = 1_500
	}

	l.requests(plain, proxy)
	for l.values < total {
		l.checks(plain)
	}
	l.operators(plain)
	l.overrides(plain)
	l.commands(plain, proxy, file)
	assert.Positive(t, passedOn.Load(), "the upstream gets the values as they were sent")
	l.redis(redisServer, monitor)

	redisServer.Kill()
	l.failures(plain, proxy)
	plain.Stop()
	proxy.Stop()
	for _, p := range []*harness.Process{plain, proxy} {
		l.add("log", p.Stdout.String()+p.Stderr.String())
		digest := p.LogLines("Started")[0]["keySecretDigest"]
		assert.Regexp(t, "^[0-9a-f]{8}$", digest)
		assert.NotContains(t, l.whole.String(), keySecret)
	}
	require.NotEmpty(t, traces.spans)
	for _, span := range traces.spans {
		l.add("span", span.String())
	}
	t.Logf("%d values, and %d bytes were searched", l.values, l.whole.Len())
}

// requests sends keys by header, cookie and query through the routes that answer by headers.
func (l *leaks) requests(plain, proxy *harness.Process) {
	l.t.Helper()
	asked := func(status int, a harness.Response) {
		l.t.Helper()
		require.Equal(l.t, status, a.Status, a.Body)
	}
	for range 100 {
		header, cookie, query := "X-API-Key: "+l.raw(), "Cookie: sid="+l.raw(), "?api_key="+l.raw()
		org := "X-Org: " + rawMark + "-org"
		for _, status := range []int{200, 429} {
			asked(status, l.send(plain, http.MethodGet, plain.URL+"/api/resource", "", header))
			asked(status, l.send(plain, http.MethodGet, plain.URL+"/v1/forward-auth", "", "X-Forwarded-Uri: /cookie", cookie))
			asked(status, l.send(plain, http.MethodGet, plain.URL+"/v1/forward-auth", "", "X-Forwarded-Uri: /query"+query, org))
			asked(status, l.send(plain, http.MethodGet, plain.URL+"/v1/forward-auth", "", "X-Forwarded-Uri: /list", header))
		}
		header, cookie, query = "X-API-Key: "+l.raw(), "Cookie: sid="+l.raw(), "?api_key="+l.raw()
		for _, status := range []int{200, 429} {
			asked(status, l.send(proxy, http.MethodGet, proxy.URL+"/other", "", header))
			asked(status, l.send(proxy, http.MethodGet, proxy.URL+"/cookie", "", cookie))
			asked(status, l.send(proxy, http.MethodGet, proxy.URL+"/query"+query, "", "X-Org: "+rawMark+"-big"+fmt.Sprint(l.values)))
			asked(status, l.send(proxy, http.MethodGet, proxy.URL+"/list", "", header))
			asked(200, l.send(proxy, http.MethodGet, proxy.URL+"/permits/a", "", header))
		}
	}
	asked(401, l.send(plain, http.MethodGet, plain.URL+"/api/resource", ""))
	asked(401, l.send(proxy, http.MethodGet, proxy.URL+"/", ""))
	asked(401, l.send(plain, http.MethodGet, plain.URL+"/v1/forward-auth", "", "X-Forwarded-Uri: /other"))
	missing := l.send(plain, http.MethodGet, plain.URL+"/v1/forward-auth?denied=403", "", "X-Forwarded-Uri: /other")
	asked(401, missing)
	assert.Equal(l.t, "Key", missing.Header.Get("WWW-Authenticate"))
	assert.Equal(l.t, "header:x-api-key: must be sent: requests are counted by it", missing.JSON(l.t)["detail"])
	asked(200, l.send(proxy, http.MethodGet, proxy.URL+"/", "", "X-API-Key: "+rawMark+"-exempt"))
	asked(403, l.send(proxy, http.MethodGet, proxy.URL+"/", "", "X-API-Key: "+rawMark+"-blocked"))
	asked(400, l.send(proxy, http.MethodGet, proxy.URL+"/query?api_key="+l.raw()+"&api_key="+l.raw(), ""))
	asked(400, l.send(plain, http.MethodGet, plain.URL+"/v1/forward-auth", "", "X-Forwarded-Uri: /cookie", "Cookie: sid="+l.raw()+"; sid="+l.raw()))
	asked(400, l.send(plain, http.MethodGet, plain.URL+"/v1/forward-auth", "", "X-Forwarded-Uri: /%zz?api_key="+l.raw()))
	asked(501, l.send(plain, http.MethodGet, plain.URL+"/v1/forward-auth", "", "X-Forwarded-Uri: /permits/a", "X-API-Key: "+l.raw()))
	asked(502, l.send(proxy, http.MethodGet, proxy.URL+"/permits/broken?api_key="+l.raw(), "", "X-API-Key: "+l.raw()))
}

// checks asks the decision API: a batch, and one permit.
func (l *leaks) checks(p *harness.Process) {
	l.t.Helper()
	var checks []string
	for range 400 {
		checks = append(checks, fmt.Sprintf(`{"key":%q}`, l.raw()), fmt.Sprintf(`{"policy":"cookie","key":%q}`, l.raw()),
			fmt.Sprintf(`{"policy":"query","key":%q,"attributes":{"header:x-org":%q}}`, l.raw(), l.raw()))
	}
	for len(checks) > 0 {
		n := min(len(checks), 500)
		a := l.send(p, http.MethodPost, p.URL+"/v1/checks", `{"checks":[`+strings.Join(checks[:n], ",")+`]}`)
		require.Equal(l.t, http.StatusOK, a.Status, a.Body)
		require.Equal(l.t, n, strings.Count(a.Body, `{"allowed":true`))
		checks = checks[n:]
	}
	api := func(status int, route, body string) harness.Response {
		l.t.Helper()
		a := l.send(p, http.MethodPost, p.URL+route, body)
		require.Equal(l.t, status, a.Status, a.Body)
		return a
	}
	key := l.raw()
	own := fmt.Sprintf(`"policy":"permits","key":%q,"attributes":{"header:x-org":%q}`, key, l.raw())
	permit := api(200, "/v1/check", "{"+own+`,"cost":9}`).JSON(l.t)["permit"].(string)
	assert.Equal(l.t, false, api(200, "/v1/check", "{"+own+"}").JSON(l.t)["allowed"])
	api(200, "/v1/renew", `{"permit":"`+permit+`"}`)
	assert.Equal(l.t, true, api(200, "/v1/release", `{"permit":"`+permit+`","cost":2}`).JSON(l.t)["released"])
	limits := api(200, "/v1/check", "{"+own+`,"cost":0}`).JSON(l.t)["limits"].([]any)
	assert.InDelta(l.t, float64(cap60(key)-2), limits[1].(map[string]any)["remaining"], 0, "7 came back")
	api(200, "/v1/refund", "{"+own+`,"cost":1}`)
	api(200, "/v1/charge", "{"+own+`,"cost":1}`)
	api(422, "/v1/check", fmt.Sprintf(`{"policy":"list","key":%q}`, l.raw()))
	api(422, "/v1/check", fmt.Sprintf(`{"policy":"permits","key":%q}`, l.raw()))
	api(422, "/v1/check", `{"policy":"cookie","attributes":{"cookie:sid":""}}`)
	missing := api(422, "/v1/check", `{"attributes":{"header:x-api-key":"","ip":"192.0.2.1"}}`)
	assert.Equal(l.t, "key: must not be empty: the policy refuses requests without it", missing.JSON(l.t)["detail"], "401 would be about the token")
	api(400, "/v1/check", fmt.Sprintf(`{"key":%q,"kez":1}`, l.raw()))
	api(404, "/v1/check", fmt.Sprintf(`{"policy":"none","key":%q}`, l.raw()))
}

// cap60 is the capacity of a client's tokens: an override is for some.
func cap60(key string) int {
	if strings.HasPrefix(key, rawMark+"-00") {
		return 60
	}
	return 50
}

// operators asks the admin plane.
func (l *leaks) operators(p *harness.Process) {
	l.t.Helper()
	for _, path := range []string{"/metrics", "/v1/top?n=100", "/v1/status", "/v1/policies", "/", "/readyz"} {
		a := l.send(p, http.MethodGet, p.Admin+path, "")
		require.Equal(l.t, http.StatusOK, a.Status, path)
		if strings.HasPrefix(path, "/v1/top") {
			assert.Contains(l.t, a.Body, `"key":"hmac:`)
		}
	}
	raw := l.raw()
	check := func() bool {
		return l.send(p, http.MethodPost, p.URL+"/v1/check", fmt.Sprintf(`{"key":%q}`, raw)).JSON(l.t)["allowed"].(bool)
	}
	require.True(l.t, check())
	require.False(l.t, check())
	inspected := l.send(p, http.MethodGet, p.Admin+"/v1/buckets/default/"+raw, "").JSON(l.t)
	listed := inspected["key"].(string)
	require.Regexp(l.t, "^hmac:[0-9a-f]{64}$", listed)
	again := l.send(p, http.MethodGet, p.Admin+"/v1/buckets/default/"+listed, "").JSON(l.t)
	assert.Equal(l.t, listed, again["key"])
	assert.InDelta(l.t, 0, again["limits"].([]any)[0].(map[string]any)["tokens"], 0.1)
	assert.Equal(l.t, http.StatusNoContent, l.send(p, http.MethodDelete, p.Admin+"/v1/buckets/default/"+listed, "").Status)
	require.True(l.t, check(), "the reset was of this client")
	require.False(l.t, check())
	assert.Equal(l.t, http.StatusOK, l.send(p, http.MethodGet, p.URL+"/api/resource", "", "X-API-Key: "+listed).Status,
		"a client that sends the HMAC has a bucket of its own")
	require.False(l.t, check())
	assert.Equal(l.t, http.StatusOK, l.send(p, http.MethodDelete, p.Admin+"/v1/permits/permits/"+listed, "").Status)
	assert.Equal(l.t, http.StatusNotFound, l.send(p, http.MethodGet, p.Admin+"/v1/buckets/none/"+listed, "").Status)
}

// overrides sets one by the value, by the routes.
func (l *leaks) overrides(p *harness.Process) {
	l.t.Helper()
	raw := l.raw()
	route := p.Admin + "/v1/overrides/default/" + raw
	set := l.send(p, http.MethodPut, route, `{"block":true,"note":"leaked"}`, "Content-Type: application/json")
	require.Equal(l.t, http.StatusOK, set.Status, set.Body)
	listed := set.JSON(l.t)["key"].(string)
	require.Regexp(l.t, "^hmac:[0-9a-f]{64}$", listed)
	refused := l.send(p, http.MethodPut, route, `{"limits":[{"name":"none","capacity":5}]}`, "Content-Type: application/json")
	assert.Equal(l.t, http.StatusUnprocessableEntity, refused.Status, refused.Body)
	for other, status := range map[string]int{
		route + "?source=ip": 422, route + "/" + raw: 404, p.Admin + "/v1/overrides/none/" + raw: 404, p.Admin + "/v1/buckets/default/" + raw + "?source=ip": 422,
		p.Admin + "/v1/overrides/" + raw: 405, p.Admin + "//v1/overrides/default/" + raw: 404,
		p.Admin + "/v1/permits/permits/slash/" + raw: 422,
	} {
		assert.Equal(l.t, status, l.send(p, http.MethodDelete, other, "").Status, other)
	}
	assert.Equal(l.t, 422, l.send(p, http.MethodGet, p.Admin+"/v1/overrides/default?after="+raw, "").Status)
	large := l.send(p, http.MethodPut, route, `{"note":"`+strings.Repeat("x", 1<<20)+`"}`, "Content-Type: application/json")
	assert.Equal(l.t, http.StatusRequestEntityTooLarge, large.Status)
	assert.Equal(l.t, http.StatusForbidden, l.send(p, http.MethodGet, p.URL+"/api/resource", "", "X-API-Key: "+raw).Status)
	assert.Equal(l.t, listed, l.send(p, http.MethodGet, route, "").JSON(l.t)["key"])
	assert.Contains(l.t, l.send(p, http.MethodGet, p.Admin+"/v1/overrides/default", "").Body, listed)
	assert.Contains(l.t, l.send(p, http.MethodGet, p.Admin+"/v1/buckets/default/"+raw, "").Body, `"block":true`)
	assert.Equal(l.t, http.StatusNoContent, l.send(p, http.MethodDelete, route, "").Status)
	assert.Equal(l.t, http.StatusNotFound, l.send(p, http.MethodDelete, route, "").Status)
	big := l.send(p, http.MethodPut, p.Admin+"/v1/overrides/shared%2Forg/"+l.raw(), `{"limits":[{"quota":"9/day"}]}`, "Content-Type: application/json")
	require.Equal(l.t, http.StatusOK, big.Status, big.Body)
	require.Eventually(l.t, func() bool { return len(p.LogLines("Audit")) > 0 }, harness.Timeout, harness.Interval)
}

// commands runs the commands of operators, and simulate over a log that has the values.
func (l *leaks) commands(plain, proxy *harness.Process, policies string) {
	l.t.Helper()
	run := func(vars harness.Settings, args ...string) string {
		l.t.Helper()
		vars["VELOCITY_ADMIN_ADDR"] = strings.TrimPrefix(plain.Admin, "http://")
		code, stdout, stderr := command(l.t, vars, args...)
		require.Zero(l.t, code, stderr)
		l.add(args[0], stdout+stderr)
		return stdout
	}
	nodes := strings.TrimPrefix(plain.Admin, "http://") + "," + strings.TrimPrefix(proxy.Admin, "http://")
	for _, json := range []string{"-json=false", "-json"} {
		for _, by := range []string{"denials", "requests"} {
			assert.Contains(l.t, run(harness.Settings{}, "top", "-addr", nodes, "-by", by, "-n", "100", json), "hmac:")
		}
		run(harness.Settings{}, "status", "-addr", nodes, json)
	}
	raw := l.raw()
	set := run(harness.Settings{}, "override", "set", "-limit", "capacity: 5, name: default", "-note", "a ticket", raw)
	listed := regexp.MustCompile("hmac:[0-9a-f]{64}").FindString(set)
	require.NotEmpty(l.t, listed, set)
	for _, args := range [][]string{
		{"override", "get", raw},
		{"override", "list"},
		{"override", "export"},
		{"inspect", raw},
		{"inspect", "-json", raw},
		{"reset", "-yes", raw},
		{"override", "delete", raw},
	} {
		run(harness.Settings{}, args...)
	}

	dir := l.t.TempDir()
	log, page, decisions := filepath.Join(dir, "log"), filepath.Join(dir, "page.html"), filepath.Join(dir, "decisions")
	var lines strings.Builder
	for i := range 100 {
		line := fmt.Sprintf("192.0.2.1 - - [10/Oct/2026:13:55:%02d +0000] \"GET /query?api_key=%s HTTP/1.1\" 200 5 \"-\" \"-\"\n", i/2, l.raw())
		lines.WriteString(line + line) // the second one is denied, and its client listed
	}
	require.NoError(l.t, os.WriteFile(log, []byte(lines.String()), 0o600))
	report := run(harness.Settings{"VELOCITY_KEY_SECRET": keySecret}, "simulate", "-policies", policies, "-html", page, "-decisions", decisions, log)
	assert.Contains(l.t, report, "hmac:")
	for _, file := range []string{page, decisions} {
		text, err := os.ReadFile(file)
		require.NoError(l.t, err)
		l.add(file, string(text))
	}
}

// redis searches what Redis holds, and every command that it got.
func (l *leaks) redis(server *redistest.Server, monitor *harness.Output) {
	l.t.Helper()
	c := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer func() { _ = c.Close() }()
	keys := 0
	for it := c.Scan(l.t.Context(), 0, "*", 1000).Iterator(); it.Next(l.t.Context()); keys++ {
		l.add("key", it.Val())
	}
	assert.Greater(l.t, keys, l.values*3/4)
	require.NoError(l.t, c.Save(l.t.Context()).Err())
	dump, err := os.ReadFile(filepath.Join(server.Dir, "dump.rdb"))
	require.NoError(l.t, err)
	assert.Contains(l.t, string(dump), "velocity:{default:h:x-api-key=hmac:")
	l.add("dump", string(dump))
	const last = "the last command"
	require.NoError(l.t, c.Echo(l.t.Context(), last).Err())
	require.Eventually(l.t, func() bool { return strings.Contains(monitor.String(), last) }, harness.Timeout, harness.Interval)
	assert.Contains(l.t, monitor.String(), "velocity:{default:h:x-api-key=hmac:")
	l.add("commands", monitor.String())
}

// failures sends requests while Redis is away.
func (l *leaks) failures(plain, proxy *harness.Process) {
	l.t.Helper()
	for range 10 {
		for path, status := range map[string]int{"/": 200, "/cookie": 200, "/query?api_key=" + l.raw(): 503, "/list": 200, "/permits/x": 200} {
			a := l.send(proxy, http.MethodGet, proxy.URL+path, "", "X-API-Key: "+l.raw(), "Cookie: sid="+l.raw())
			assert.Equal(l.t, status, a.Status, path)
		}
	}
	a := l.send(plain, http.MethodPost, plain.URL+"/v1/check", fmt.Sprintf(`{"policy":"permits","key":%q,"attributes":{"header:x-org":%q}}`, l.raw(), l.raw()))
	require.Equal(l.t, http.StatusOK, a.Status, a.Body)
	l.send(plain, http.MethodPost, plain.URL+"/v1/release", `{"permit":"`+a.JSON(l.t)["permit"].(string)+`"}`)
	assert.Equal(l.t, 503, l.send(plain, http.MethodPost, plain.URL+"/v1/charge", fmt.Sprintf(`{"key":%q}`, l.raw())).Status)
	assert.Equal(l.t, 503, l.send(plain, http.MethodGet, plain.Admin+"/v1/buckets/default/hmac:"+strings.Repeat("0", 64), "").Status)
	for _, path := range []string{"/metrics", "/v1/top?n=100", "/v1/status", "/readyz"} {
		l.send(plain, http.MethodGet, plain.Admin+path, "")
	}
}

// startMonitor returns what Redis writes about every command that it gets.
func startMonitor(t *testing.T, addr string) *harness.Output {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, "MONITOR\r\n")
	require.NoError(t, err)
	out := new(harness.Output)
	go func() { _, _ = io.Copy(out, conn) }()
	require.Eventually(t, func() bool { return strings.HasPrefix(out.String(), "+OK") }, harness.Timeout, harness.Interval)
	return out
}

func TestSecretKeys_withoutTheSecretTheServiceDoesNotStart(t *testing.T) {
	file := harness.WriteFile(t, "policies.yaml", secretPolicies)
	p := harness.Launch(t, harness.Settings{"VELOCITY_POLICY_FILE": file})
	require.Equal(t, 1, p.Wait())
	assert.Contains(t, p.Stderr.String(), file+":3:53: shared[0].key.secret: true: needs VELOCITY_KEY_SECRET, which is not set\n")
	p = harness.Launch(t, harness.Settings{"VELOCITY_POLICY_FILE": file, "VELOCITY_KEY_SECRET": "short-one"})
	require.Equal(t, 2, p.Wait())
	assert.Contains(t, p.Stderr.String(), "VELOCITY_KEY_SECRET: 9 bytes: must have at least 16 bytes")
	assert.NotContains(t, p.Stderr.String()+p.Stdout.String(), "short-one")
}
