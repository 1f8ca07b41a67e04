//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// planPolicies give more to a plan. At 1/h no token comes back during a test.
const planPolicies = `
policies:
  - name: api
    limits: [ { rate: 1/h, capacity: 2 } ]
    overrides:
      - { when: { "header:X-Plan": pro }, limits: [ { capacity: 5 } ] }
`

// A client that says its own plan gets the limits of all others, although Velocity believes the proxy.
func TestAuthProxies_clearAForgedPlan(t *testing.T) {
	sites := openSites(t, harness.Settings{"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", planPolicies)})
	for i, s := range sites {
		t.Run(s.name, func(t *testing.T) {
			client := clientAt(t, fmt.Sprintf("127.9.%d.1", i))
			want := http.StatusOK
			for n, lines := range [][]string{
				{"X-Plan: pro"}, {"x-plan: pro"}, {"X_Plan: pro"}, {"X-PLAN: pro"}, {"X-Plan: pro", "Connection: X-Plan"},
			} {
				if n == 2 {
					want = http.StatusTooManyRequests
				}
				got := s.get(t, client, "/orders", lines...)
				assert.Equal(t, want, got.Status, "%s: %s", lines, got.Body)
				assert.Equal(t, "2", got.Header.Get("X-RateLimit-Limit"), "%s", lines)
			}
			believed, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.velocity.URL+"/v1/forward-auth", nil)
			require.NoError(t, err)
			got, err := harness.Send(http.DefaultClient, believed, "X-Forwarded-Uri: /orders", "X-Forwarded-For: 192.0.2.9", "X-Plan: pro")
			require.NoError(t, err)
			assert.Equal(t, "5", got.Header.Get("X-RateLimit-Limit"), "what the proxy itself says is believed")
		})
	}
}
