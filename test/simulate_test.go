package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// replayedPolicies use everything that a log can contain: methods, hosts, paths, headers, parameters, addresses, costs,
// overrides, lists of clients, shadow mode, and limits with keys of their own.
const replayedPolicies = `policies:
  - name: search
    match: { methods: [GET], host: "*.example.com", path: "/api/search/**" }
    key: header:X-Client-ID
    cost: header:X-Cost
    limits:
      - { name: burst, rate: 100/s, capacity: 5 }
      - { name: minute, rate: 60/m, capacity: 60 }
    overrides:
      - { keys: ["c1"], limits: [ { name: burst, rate: 200/s, capacity: 9 } ] }
    exempt: ["c2"]
    block: ["c3"]
  - name: orders
    match: { path: "/orders/*" }
    key: [ip, "query:user"]
    mode: shadow
    limits: [ { rate: 30/s, capacity: 3 } ]
  - name: shared
    match: { path: "/shared" }
    key: header:X-Client-ID
    limits:
      - { name: own, rate: 1/h, capacity: 30 }
      - { name: all, rate: 1/h, capacity: 20, key: global }
  - name: login
    match: { path: /login }
    key: header:X-Client-ID
    limits: [ { rate: 10/h, capacity: 12 } ]
    refund_on: [2xx]
  - name: default
    match: { path: "/**" }
    limits: [ { rate: 50/s, capacity: 10 } ]
`

// sent is a request as a server before the service would log it.
type sent struct {
	method, host, target, client, cost string
	status                             int
}

// The test sends requests to the service, writes an access log with the store's times, and simulates it: every decision is
// the same.
func TestSimulate_decidesLineForLineAsTheServiceDid(t *testing.T) {
	for name, vars := range map[string]harness.Settings{
		"memory": {},
		"redis":  {"REDIS_ADDR": redistest.Start(t).Addr + "," + redistest.Start(t).Addr + "," + redistest.Start(t).Addr},
	} {
		t.Run(name, func(t *testing.T) {
			policies := filepath.Join(t.TempDir(), "policies.yaml")
			require.NoError(t, os.WriteFile(policies, []byte(replayedPolicies), 0o600))
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Has("wrong") {
					w.WriteHeader(http.StatusUnauthorized)
				}
			}))
			defer upstream.Close()
			for k, v := range map[string]string{
				"VELOCITY_POLICY_FILE": policies, "VELOCITY_UPSTREAM_URL": upstream.URL, "VELOCITY_TAKE_TIMEOUT": "10s",
				"VELOCITY_TRUSTED_PROXIES": "loopback", // so that the cost in a header counts
			} {
				vars[k] = v
			}
			p := harness.Start(t, vars)
			requests := drive(t, p)
			p.Stop()
			served := decisionsOf(t, p)
			require.Len(t, served, len(requests), "every request was decided and logged")
			again := replayed(t, policies, requests, served)
			outcomes := map[string]int{}
			for i, s := range served {
				if s.policy == "shared" { // it takes from two shards, at two times; the log has one
					s.retryAfter, again[i].retryAfter = 0, 0
				}
				require.Equal(t, s.loggedDecision, again[i], "line %d: %+v at %d", i+1, requests[s.request], s.at)
				outcomes[s.outcome]++
			}
			for _, outcome := range []string{"allowed", "denied", "blocked", "exempt"} {
				assert.Greater(t, outcomes[outcome], 20, "%s in %v", outcome, outcomes)
			}
		})
	}
}

// drive sends the requests of several clients at once, those of each one after the other. One client alone uses the shared
// buckets: the store may decide two requests in one microsecond, whose order a log does not show.
func drive(t *testing.T, p *harness.Process) []sent {
	t.Helper()
	const clients, each = 8, 120
	requests := make([]sent, 0, clients*each)
	for c := range clients {
		for i := range each {
			requests = append(requests, request(c, i))
		}
	}
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				n := c*each + i
				r := &requests[n]
				a, err := sendAs(p, r, n)
				if assert.NoError(t, err) {
					r.status = a
				}
			}
		})
	}
	wg.Wait()
	return requests
}

// request returns the i-th request of a client.
func request(client, i int) sent {
	r := sent{method: http.MethodGet, host: "localhost", client: fmt.Sprint("c", client)}
	switch {
	case client == 7: // the one that uses the shared buckets
		r.target = "/shared"
	case client == 6 && i%2 == 0:
		r.target = "/login"
		if i%4 == 0 {
			r.target += "?wrong"
		}
	case i%3 == 2:
		r.method, r.target = http.MethodPost, fmt.Sprintf("/orders/%d?user=u%d%%20x", i%7, client)
	default:
		r.host, r.target = "api.example.com", "/api//search/%78?q="+strconv.Itoa(i)
		if i%5 == 0 {
			r.cost = "2"
		}
	}
	return r
}

// sendAs sends a request with its number as X-Request-Id.
func sendAs(p *harness.Process, r *sent, n int) (status int, err error) {
	req, err := http.NewRequestWithContext(p.T.Context(), r.method, p.URL+r.target, http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Host = r.host
	req.Header.Set("X-Client-ID", r.client)
	req.Header.Set("X-Request-Id", strconv.Itoa(n))
	if r.cost != "" {
		req.Header.Set("X-Cost", r.cost)
	}
	resp, err := p.Client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// decision holds what must be equal.
type loggedDecision struct {
	policy, client, outcome string
	shadow                  bool
	remaining               int64 // of allowed requests
	retryAfter              int64 // seconds, of denied requests
}

// servedDecision is a decision in the log of the service.
type servedDecision struct {
	loggedDecision
	request int
	at      int64 // microseconds
}

// decisionsOf reads the service's log, in its order.
func decisionsOf(t *testing.T, p *harness.Process) []servedDecision {
	t.Helper()
	var list []servedDecision
	for text := range strings.Lines(p.Stdout.String()) {
		var line struct {
			Msg, UserID, Policy, Store string
			RequestID                  int `json:",string"`
			Time                       time.Time
			StoreTimeUs                int64
			Remaining, RetryAfter      int64
			Reason                     int
			Exempt, Shadow             bool
		}
		if !strings.Contains(text, `"msg":"Decision: `) {
			continue
		}
		require.NoError(t, json.Unmarshal([]byte(text), &line), text)
		require.NotEqual(t, "fallback", line.Store, text)
		s := servedDecision{request: line.RequestID, at: line.StoreTimeUs, loggedDecision: loggedDecision{
			policy: line.Policy, client: line.UserID, outcome: "allowed", shadow: line.Shadow, remaining: line.Remaining, retryAfter: line.RetryAfter,
		}}
		switch {
		case line.Exempt:
			s.outcome = "exempt"
		case line.Reason == http.StatusForbidden:
			s.outcome = "blocked"
		case line.Reason == http.StatusTooManyRequests:
			s.outcome = "denied"
		default:
			require.Zero(t, line.Reason, text)
		}
		if s.at == 0 { // no store decided, so the time does not matter
			s.at = line.Time.UnixMicro()
		}
		list = append(list, s)
	}
	return list
}

// replayed writes an access log as nginx would, in the order of the service's log, and simulates it.
func replayed(t *testing.T, policies string, requests []sent, served []servedDecision) []loggedDecision {
	t.Helper()
	var log strings.Builder
	for _, s := range served {
		r := &requests[s.request]
		line, err := json.Marshal(map[string]any{
			"ts": s.at, "remote_addr": "127.0.0.1", "host": r.host, "request_method": r.method, "request_uri": r.target,
			"status": r.status, "http_x_client_id": r.client, "http_x_cost": r.cost,
		})
		require.NoError(t, err)
		log.Write(append(line, '\n'))
	}
	f := newFolder(t, map[string]string{"access.log": log.String()})
	code, _, stderr := f.run(nil, "simulate", "-policies", policies, "-decisions", "decisions.json", "access.log")
	require.Equal(t, 0, code, stderr)
	text, err := os.ReadFile(filepath.Join(f.dir, "decisions.json"))
	require.NoError(t, err)
	list := make([]loggedDecision, len(served))
	for one := range strings.Lines(string(text)) {
		var line struct {
			Line                    int
			Policy, Client, Outcome string
			Shadow                  bool
			Remaining               int64
			RetryAfterMS            int64 `json:"retry_after_ms"`
		}
		require.NoError(t, json.Unmarshal([]byte(one), &line), one)
		d := loggedDecision{policy: line.Policy, client: line.Client, outcome: line.Outcome, shadow: line.Shadow}
		switch line.Outcome {
		case "allowed":
			d.remaining = line.Remaining
		case "denied":
			d.retryAfter = (line.RetryAfterMS + 999) / 1000
		}
		list[line.Line-1] = d
	}
	return list
}
