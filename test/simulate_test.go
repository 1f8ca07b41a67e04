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
)

// replayedPolicies have what a log can tell: methods, hosts, paths, headers, parameters, addresses, costs, overrides,
// lists of clients, shadow mode, and limits with keys of their own.
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

// sent is a request, as a server in front would log it.
type sent struct {
	method, host, target, client, cost string
	status                             int
}

// TestSimulate_decidesLineForLineAsTheServiceDid drives the service, writes an access log with the store's own times, and
// replays it.
func TestSimulate_decidesLineForLineAsTheServiceDid(t *testing.T) {
	for name, vars := range map[string]settings{
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
				"VELOCITY_TRUSTED_PROXIES": "loopback", // whose word about the cost is believed
			} {
				vars[k] = v
			}
			p := start(t, vars)
			requests := drive(t, p)
			p.stop()
			served := decisionsOf(t, p)
			require.Len(t, served, len(requests), "every request was decided and logged")
			again := replayed(t, policies, requests, served)
			outcomes := map[string]int{}
			for i, s := range served {
				if s.policy == "shared" { // decided in two places, at two instants, of which the log has one
					s.retryAfter, again[i].retryAfter = 0, 0
				}
				require.Equal(t, s.decision, again[i], "line %d: %+v at %d", i+1, requests[s.request], s.at)
				outcomes[s.outcome]++
			}
			for _, outcome := range []string{"allowed", "denied", "blocked", "exempt"} {
				assert.Greater(t, outcomes[outcome], 20, "%s in %v", outcome, outcomes)
			}
		})
	}
}

// drive sends what several clients send at once, each one after the other. Buckets that clients share are left to one
// alone: the store may decide two requests in one microsecond, and no log tells which was first.
func drive(t *testing.T, p *process) []sent {
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
				a, err := p.askAs(r, n)
				if assert.NoError(t, err) {
					r.status = a
				}
			}
		})
	}
	wg.Wait()
	return requests
}

// request is the i-th of a client.
func request(client, i int) sent {
	r := sent{method: http.MethodGet, host: "localhost", client: fmt.Sprint("c", client)}
	switch {
	case client == 7: // alone in what is shared
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

// askAs sends a request whose id is its number.
func (p *process) askAs(r *sent, n int) (status int, err error) {
	req, err := http.NewRequestWithContext(p.t.Context(), r.method, p.url+r.target, http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Host = r.host
	req.Header.Set("X-Client-ID", r.client)
	req.Header.Set("X-Request-Id", strconv.Itoa(n))
	if r.cost != "" {
		req.Header.Set("X-Cost", r.cost)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// decision is what must be the same.
type decision struct {
	policy, client, outcome string
	shadow                  bool
	remaining               int64 // of what passed
	retryAfter              int64 // seconds, of what was denied
}

// servedDecision is one that the service logged.
type servedDecision struct {
	decision
	request int
	at      int64 // microseconds
}

// decisionsOf reads the service's log, in its order.
func decisionsOf(t *testing.T, p *process) []servedDecision {
	t.Helper()
	var list []servedDecision
	for text := range strings.Lines(p.stdout.String()) {
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
		s := servedDecision{request: line.RequestID, at: line.StoreTimeUs, decision: decision{
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
		if s.at == 0 { // no store was asked, and so no time matters
			s.at = line.Time.UnixMicro()
		}
		list = append(list, s)
	}
	return list
}

// replayed writes an access log as nginx would, in the order of the service's log, and simulates it.
func replayed(t *testing.T, policies string, requests []sent, served []servedDecision) []decision {
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
	list := make([]decision, len(served))
	for one := range strings.Lines(string(text)) {
		var line struct {
			Line                    int
			Policy, Client, Outcome string
			Shadow                  bool
			Remaining               int64
			RetryAfterMS            int64 `json:"retry_after_ms"`
		}
		require.NoError(t, json.Unmarshal([]byte(one), &line), one)
		d := decision{policy: line.Policy, client: line.Client, outcome: line.Outcome, shadow: line.Shadow}
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
