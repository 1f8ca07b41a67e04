//go:build doors

package test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// storePolicies answer an outage each in its way. A second rate of one token an hour keeps a test apart from its duration.
const storePolicies = `
policies:
  - { name: open,   match: { path: "/open" },   limits: [ { rate: 1/h, capacity: 2 } ], on_store_failure: open }
  - { name: closed, match: { path: "/closed" }, limits: [ { rate: 1/h, capacity: 2 } ], on_store_failure: closed }
  - { name: local,  match: { path: "/local" },  limits: [ { rate: 1/h, capacity: 2 } ], on_store_failure: local }
  - { name: shadow, match: { path: "/shadow" }, limits: [ { rate: 1/h, capacity: 1 } ], on_store_failure: local, mode: shadow }
  - { name: cost,   match: { path: "/cost" },   limits: [ { rate: 1/h, capacity: 2 } ], on_store_failure: local, cost: 3 }
  - { name: block,  match: { path: "/block" },  limits: [ { rate: 1/h, capacity: 2 } ], block: ["127.5.*"] }
`

// toldAs has every header by which an answer tells of a limit.
var toldAs = []string{
	"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Retry-After", "X-RateLimit-Store", "X-RateLimit-Shadow",
	"RateLimit-Policy", "RateLimit", "Retry-After",
}

// TestDoors_whileTheStoreFails: the client learns from the proxy what it would learn from Velocity. Above all, an outage is
// no quota: a client that is told 429 counts itself the culprit.
func TestDoors_whileTheStoreFails(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	sites := openSites(t, settings{"VELOCITY_REDIS_ADDRS": server.Addr, "VELOCITY_POLICY_FILE": writePolicies(t, storePolicies)})
	for i, s := range sites {
		t.Run(s.name, func(t *testing.T) {
			client := clientAt(t, fmt.Sprintf("127.5.%d.1", i))
			policy := `"default";q=2;w=7200`
			told := func(pairs ...string) map[string]string {
				want := map[string]string{"X-RateLimit-Limit": "2", "RateLimit-Policy": policy, "X-RateLimit-Store": "fallback"}
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
				{"/open", 200, "api", told()},
				{"/closed", 503, "temporary-reduced-capacity", told("Retry-After", "1")},
				{"/local", 200, "api", told("X-RateLimit-Remaining", "1", "RateLimit", "*")},
				{"/local", 200, "api", told("X-RateLimit-Remaining", "0", "RateLimit", "*")},
				{"/local", 429, "quota-exceeded", told("X-RateLimit-Remaining", "0", "RateLimit", "*", "Retry-After", "*", "X-RateLimit-Retry-After", "*")},
				{"/cost", 429, "quota-exceeded", told("X-RateLimit-Remaining", "2", "RateLimit", "*")},
				{"/shadow", 200, "api", told("X-RateLimit-Limit", "1", "RateLimit-Policy", "*", "X-RateLimit-Remaining", "0", "RateLimit", "*", "X-RateLimit-Shadow", "allowed")},
				{"/shadow", 200, "api", told("X-RateLimit-Limit", "1", "RateLimit-Policy", "*", "X-RateLimit-Remaining", "0", "RateLimit", "*", "X-RateLimit-Shadow", "denied")},
				{"/block", 403, "", nil},
			} {
				got := s.ask(t, client, step.path)
				require.Equal(t, step.status, got.status, "%s: %s", step.path, got.body)
				assert.Contains(t, got.body, step.text, step.path)
				assertTold(t, step.path, step.want, got)
			}
		})
	}
}

// TestDoors_noWordOfTheClientOrTheAPIIsTakenForVelocitys: while the store answers, and where no policy applies.
func TestDoors_noWordOfTheClientOrTheAPIIsTakenForVelocitys(t *testing.T) {
	sites := openSites(t, settings{"VELOCITY_POLICY_FILE": writePolicies(t, storePolicies)})
	for i, s := range sites {
		t.Run(s.name, func(t *testing.T) {
			client := clientAt(t, fmt.Sprintf("127.6.%d.1", i))
			lies := make([]string, len(toldAs))
			for n, name := range toldAs {
				lies[n] = name + ": a lie"
			}
			got := s.ask(t, client, "/open", lies...)
			require.Equal(t, http.StatusOK, got.status)
			assertTold(t, "limited", map[string]string{
				"X-RateLimit-Limit": "2", "RateLimit-Policy": "*", "X-RateLimit-Remaining": "1", "RateLimit": "*",
			}, got)
			got = s.ask(t, client, "/free", lies...)
			require.Equal(t, http.StatusOK, got.status)
			assertTold(t, "no policy", nil, got)
		})
	}
}

// assertTold asserts that an answer has these headers, each once and not empty, and no other of toldAs.
func assertTold(t *testing.T, what string, want map[string]string, got answer) {
	t.Helper()
	for _, name := range toldAs {
		values := got.header.Values(name)
		switch value, told := want[name]; {
		case !told:
			assert.Empty(t, values, "%s: %s", what, name)
		case assert.Len(t, values, 1, "%s: %s", what, name) && value == "*":
			assert.NotEmpty(t, values[0], "%s: %s", what, name)
		case len(values) == 1:
			assert.Equal(t, value, values[0], "%s: %s", what, name)
		}
	}
}
