//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// storePolicies have one policy for each way to decide during an outage. At 1/h no token comes back during a test.
const storePolicies = `
policies:
  - { name: open,   match: { path: "/open" },   limits: [ { rate: 1/h, capacity: 2 } ], on_store_failure: open }
  - { name: closed, match: { path: "/closed" }, limits: [ { rate: 1/h, capacity: 2 } ], on_store_failure: closed }
  - { name: local,  match: { path: "/local" },  limits: [ { rate: 1/h, capacity: 2 } ], on_store_failure: local }
  - { name: shadow, match: { path: "/shadow" }, limits: [ { rate: 1/h, capacity: 1 } ], on_store_failure: local, mode: shadow }
  - { name: cost,   match: { path: "/cost" },   limits: [ { rate: 1/h, capacity: 2 } ], on_store_failure: local, cost: "header:X-Cost" }
  - { name: block,  match: { path: "/block" },  limits: [ { rate: 1/h, capacity: 2 } ], block: ["127.5.*"] }
`

// limitHeaders are all headers of a response about limits.
var limitHeaders = []string{
	"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Retry-After", "X-RateLimit-Store", "X-RateLimit-Shadow",
	"RateLimit-Policy", "RateLimit", "Retry-After",
}

// While the store fails a client gets from the proxy the response that Velocity would send. An outage is never a 429.
func TestAuthProxies_whileTheStoreFails(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	sites := openSites(t, harness.Settings{"VELOCITY_REDIS_ADDRS": server.Addr, "VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", storePolicies)})
	for i, s := range sites {
		t.Run(s.name, func(t *testing.T) {
			client := clientAt(t, fmt.Sprintf("127.5.%d.1", i))
			headers := func(pairs ...string) map[string]string {
				want := map[string]string{"X-RateLimit-Limit": "2", "RateLimit-Policy": "of its name", "X-RateLimit-Store": "fallback"}
				for n := 0; n < len(pairs); n += 2 {
					want[pairs[n]] = pairs[n+1]
				}
				return want
			}
			for _, step := range []struct {
				path   string
				status int
				text   string
				want   map[string]string // "*": any value
			}{
				{"/open", 200, "api", headers()},
				{"/closed", 503, "temporary-reduced-capacity", headers("Retry-After", "1")},
				{"/local", 200, "api", headers("X-RateLimit-Remaining", "1", "RateLimit", "*")},
				{"/local", 200, "api", headers("X-RateLimit-Remaining", "0", "RateLimit", "*")},
				{"/local", 429, "quota-exceeded", headers("X-RateLimit-Remaining", "0", "RateLimit", "*", "Retry-After", "*", "X-RateLimit-Retry-After", "*")},
				{"/cost", 429, "quota-exceeded", headers("X-RateLimit-Remaining", "2", "RateLimit", "*")},
				{"/shadow", 200, "api", headers("X-RateLimit-Limit", "1", "RateLimit-Policy", "*", "X-RateLimit-Remaining", "0", "RateLimit", "*", "X-RateLimit-Shadow", "allowed")},
				{"/shadow", 200, "api", headers("X-RateLimit-Limit", "1", "RateLimit-Policy", "*", "X-RateLimit-Remaining", "0", "RateLimit", "*", "X-RateLimit-Shadow", "denied")},
				{"/block", 403, "", nil},
			} {
				if step.want["RateLimit-Policy"] == "of its name" {
					step.want["RateLimit-Policy"] = fmt.Sprintf("%q;q=2;w=7200", step.path[1:])
				}
				got := s.get(t, client, step.path, "X-Cost: 3") // above the capacity
				require.Equal(t, step.status, got.Status, "%s: %s", step.path, got.Body)
				assert.Contains(t, got.Body, step.text, step.path)
				assertLimitHeaders(t, step.path, step.want, got)
			}
		})
	}
}

// Limit headers that the client or the API sends are removed, whether a policy applies or not.
func TestAuthProxies_replaceLimitHeadersOfClientAndAPI(t *testing.T) {
	sites := openSites(t, harness.Settings{"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", storePolicies)})
	for i, s := range sites {
		t.Run(s.name, func(t *testing.T) {
			client := clientAt(t, fmt.Sprintf("127.6.%d.1", i))
			forged := make([]string, len(limitHeaders))
			for n, name := range limitHeaders {
				forged[n] = name + ": forged"
			}
			got := s.get(t, client, "/open", forged...)
			require.Equal(t, http.StatusOK, got.Status)
			assertLimitHeaders(t, "limited", map[string]string{
				"X-RateLimit-Limit": "2", "RateLimit-Policy": "*", "X-RateLimit-Remaining": "1", "RateLimit": "*",
			}, got)
			got = s.get(t, client, "/free", forged...)
			require.Equal(t, http.StatusOK, got.Status)
			assertLimitHeaders(t, "no policy", nil, got)
		})
	}
}

// assertLimitHeaders asserts that a response has these limit headers, each once and not empty, and no others.
func assertLimitHeaders(t *testing.T, what string, want map[string]string, got harness.Response) {
	t.Helper()
	for _, name := range limitHeaders {
		values := got.Header.Values(name)
		switch value, wanted := want[name]; {
		case !wanted:
			assert.Empty(t, values, "%s: %s", what, name)
		case assert.Len(t, values, 1, "%s: %s", what, name) && value == "*":
			assert.NotEmpty(t, values[0], "%s: %s", what, name)
		case len(values) == 1:
			assert.Equal(t, value, values[0], "%s: %s", what, name)
		}
	}
}
