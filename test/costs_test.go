package test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// metered is the service in front of an upstream whose answers say that a request has cost 40, or what its query says. A request below
// /slow is announced on begun, and answered when goOn is closed.
type metered struct {
	*harness.Process
	begun, goOn chan struct{}
}

func startMetered(t *testing.T, settings harness.Settings, policies string) metered {
	t.Helper()
	m := metered{begun: make(chan struct{}), goOn: make(chan struct{})}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if strings.HasPrefix(r.URL.Path, "/slow/") {
			m.begun <- struct{}{}
			<-m.goOn
		}
		actual := r.FormValue("actual")
		if actual == "" {
			actual = "40"
		}
		_, _ = io.WriteString(w, `{"usage":{"total_tokens":`+actual+`}}`)
	}))
	t.Cleanup(upstream.Close)
	settings["VELOCITY_UPSTREAM_URL"], settings["VELOCITY_POLICY_FILE"] = upstream.URL, harness.WriteFile(t, "policies.yaml", policies)
	m.Process = harness.Start(t, settings)
	return m
}

// call sends a request with this estimate.
func (m metered) call(path string, estimate int, headers ...string) (harness.Response, error) {
	return m.Do(http.MethodPost, m.URL+path, fmt.Sprintf(`{"max_tokens":%d}`, estimate), append(headers, "X-Client: a")...)
}

// limits are the limits of client a, by name, as the admin plane shows them.
func (m metered) limits(policy string) (byName map[string]map[string]any, err error) {
	resp, err := m.Do(http.MethodGet, m.Admin+"/v1/buckets/"+url.PathEscape(policy)+"/a", "")
	if err != nil {
		return nil, err
	}
	if resp.Status != http.StatusOK {
		return nil, fmt.Errorf("%d: %s", resp.Status, resp.Body)
	}
	byName = map[string]map[string]any{}
	for _, l := range resp.JSON(m.T)["limits"].([]any) {
		byName[l.(map[string]any)["name"].(string)] = l.(map[string]any)
	}
	return byName, nil
}

// What is due while Redis is gone is reported, and the estimate stays spent. The end of a permit is sent again, and settles then.
func TestCosts_aSettlementWhileRedisIsGone(t *testing.T) {
	for mode, status := range map[string]int{"open": http.StatusOK, "closed": http.StatusServiceUnavailable, "local": http.StatusOK} {
		t.Run(mode, func(t *testing.T) {
			server := redistest.Start(t, redistest.Args("--appendonly", "yes", "--appendfsync", "always"))
			m := startMetered(t, harness.Settings{
				"REDIS_ADDR": server.Addr, "VELOCITY_TAKE_TIMEOUT": "1s", "VELOCITY_ON_STORE_FAILURE": mode,
			}, `
policies:
  - name: held
    match: { path: "/*/held" }
    key: header:X-Client
    cost: { estimate: [json:/max_tokens], actual: usage }
    limits:
      - { name: tokens, rate: 1/h, capacity: 1000 }
      - { name: parallel, concurrent: 5, lease: 1h }
  - name: plain
    key: header:X-Client
    cost: { estimate: [json:/max_tokens], actual: usage }
    limits: [ { name: tokens, rate: 1/h, capacity: 1000 } ]
`)
			var all sync.WaitGroup
			for _, path := range []string{"/slow/plain", "/slow/held"} {
				all.Go(func() {
					resp, err := m.call(path, 100, "X-Request-Id: "+path[6:])
					assert.NoError(t, err)
					assert.Equal(t, http.StatusOK, resp.Status)
					assert.JSONEq(t, `{"usage":{"total_tokens":40}}`, resp.Body)
				})
				<-m.begun
			}
			server.Kill()
			close(m.goOn)
			all.Wait()
			resp, err := m.call("/plain", 100)
			require.NoError(t, err)
			assert.Equal(t, status, resp.Status, "the failure policy decides")

			server.Restart()
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				plain, err := m.limits("plain")
				require.NoError(c, err)
				held, err := m.limits("held")
				require.NoError(c, err)
				assert.InDelta(c, 900, plain["tokens"]["tokens"], 0.9, "the estimate stays")
				assert.InDelta(c, 960, held["tokens"]["tokens"], 0.9, "it is settled by the end of the permit")
				assert.Empty(c, held["parallel"]["held"])
			}, harness.Timeout, harness.Interval)
			assert.Positive(t, m.Metric("velocity_store_failures_total", `mode="none"`, `reason="outage"`))
			settled := map[string]float64{"plain": 100, "held": 100}
			if mode == "local" {
				settled["plain"] += 100 // by the node's own memory, which took it
			}
			for policy, estimated := range settled {
				assert.InDelta(t, estimated, m.Metric("velocity_usage_tokens_total", `policy="`+policy+`"`, `kind="estimated"`), 0, "what no store took is not settled")
			}
			m.Stop()
			lines := m.LogLines("A settlement of a cost may be lost")
			require.Len(t, lines, 1)
			assert.Equal(t, "plain", lines[0]["requestID"])
			assert.Contains(t, lines[0]["error"], "store unavailable")
			assert.NotEmpty(t, m.LogLines("Critical Redis Error: A refund, charge, release or renewal failed"))
		})
	}
}

// A policy in shadow mode counts what its requests have cost, and what it would have denied costs nothing.
func TestCosts_inShadowMode(t *testing.T) {
	m := startMetered(t, harness.Settings{}, `
policies:
  - name: trial
    key: header:X-Client
    mode: shadow
    cost: { estimate: [json:/max_tokens], actual: usage }
    limits: [ { name: tokens, rate: 1/h, capacity: 100 } ]
`)
	for _, step := range []struct {
		estimate, actual int
		shadow           string
		left             int
	}{{60, 10, "allowed", 90}, {95, 10, "denied", 90}, {1, 150, "allowed", -60}, {1, 10, "denied", -60}} {
		resp, err := m.call(fmt.Sprint("/?actual=", step.actual), step.estimate)
		require.NoError(t, err)
		assert.Equal(t, http.StatusOK, resp.Status)
		assert.Equal(t, step.shadow, resp.Header.Get("X-RateLimit-Shadow"), "%v", step)
		trial, err := m.limits("trial")
		require.NoError(t, err)
		assert.InDelta(t, step.left, trial["tokens"]["tokens"], 0.9, "%v", step)
	}
	assert.InDelta(t, 61, m.Metric("velocity_usage_tokens_total", `kind="estimated"`), 0)
	assert.InDelta(t, 160, m.Metric("velocity_usage_tokens_total", `kind="actual"`), 0)
}
