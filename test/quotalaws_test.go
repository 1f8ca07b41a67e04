package test

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// sizes are those of the limits in kindsPolicy.
var sizes = map[string]int{"burst": 40, "daily": 25, "tenant": 120}

// kindsPolicy has a bucket of a client, its quota of requests, and a quota that the clients of a tenant share. Nothing comes
// back during a test: the day begins an hour before it.
func kindsPolicy() string {
	return fmt.Sprintf(`
shared:
  - { name: tenant, key: header:X-Tenant, quota: 120/day, anchor: "%[1]s" }
policies:
  - name: search
    match: { path: "/**" }
    key: header:X-Client-ID
    cost: header:X-Cost
    limits:
      - { name: burst, rate: 1/1000h, capacity: 40 }
      - { name: daily, quota: 25/day, anchor: "%[1]s", cost: 1 }
      - { use: tenant }
`, time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
}

// Two processes decide for clients of few tenants over three shards, 300 requests at once. No limit gives more than it has,
// and each lacks exactly what was admitted: a request that one limit denied has taken nothing from the others.
func TestQuotas_limitsOfEachKindAreExactTogether(t *testing.T) {
	const clients, tenants, requests, rounds = 20, 4, 300, 3
	_, addrs := redistest.StartN(t, 3)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("s%d=%s", i, addrs[i])
	}
	vars := harness.Settings{
		"VELOCITY_REDIS_ADDRS": strings.Join(addrs, ","), "VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", kindsPolicy()),
		"VELOCITY_TRUSTED_PROXIES": "loopback", "VELOCITY_API_TOKEN": "api-token",
		"VELOCITY_TAKE_TIMEOUT": "20s", "VELOCITY_HTTP_READ_TIMEOUT": "20s", "VELOCITY_ON_STORE_FAILURE": "closed", // so that only Redis decides
	}
	processes := []*harness.Process{harness.Start(t, vars), harness.Start(t, vars)}
	for round := range rounds {
		u := &usage{spent: map[string]int{}}
		client := func(i int) (client, tenant string) {
			return fmt.Sprintf("c%d-%d", round, i%clients), fmt.Sprintf("t%d-%d", round, i%tenants)
		}
		for range clients {
			statuses := burst(t, requests, func(i int) (harness.Response, error) {
				id, tenant := client(i)
				return u.ask(processes[i/clients%2], id, tenant, 1+i/clients%3)
			})
			require.Equal(t, requests, statuses[http.StatusOK]+statuses[http.StatusTooManyRequests], "%v", statuses)
		}
		for i := range clients {
			id, tenant := client(i)
			u.requireUsedUp(processes[i%2], id, tenant)
		}
	}
}

// usage counts what requests took.
type usage struct {
	mu    sync.Mutex
	spent map[string]int // by limit and client or tenant
}

func (u *usage) ask(p *harness.Process, client, tenant string, cost int) (harness.Response, error) {
	a, err := p.Do(http.MethodGet, p.URL+"/api/resource", "", "X-Client-ID: "+client, "X-Tenant: "+tenant, fmt.Sprintf("X-Cost: %d", cost))
	if err == nil && a.Status == http.StatusOK {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.spent["burst "+client] += cost
		u.spent["daily "+client]++
		u.spent["tenant "+tenant] += cost
	}
	return a, err
}

// requireUsedUp requires that every limit of a client lacks exactly what was admitted, and that requests of a cost of 1 pass
// until one of its limits is used up. A denial that the cache repeats may be a second old.
func (u *usage) requireUsedUp(p *harness.Process, client, tenant string) {
	p.T.Helper()
	for deadline := time.Now().Add(harness.Timeout); ; {
		peek := p.MustDo(http.MethodPost, p.URL+"/v1/check", fmt.Sprintf(
			`{"policy": "search", "key": %q, "attributes": {"header:x-tenant": %q}, "cost": 0}`, client, tenant), "Authorization: Bearer api-token")
		require.Equal(p.T, http.StatusOK, peek.Status, peek.Body)
		owners, least := map[string]string{"burst": client, "daily": client, "tenant": tenant}, math.MaxInt
		for _, limit := range peek.JSON(p.T)["limits"].([]any) {
			limit := limit.(map[string]any)
			name, left := limit["name"].(string), int(limit["remaining"].(float64))
			require.Equal(p.T, sizes[name]-u.spent[name+" "+owners[name]], left, "%s of %s of %s", name, client, tenant)
			delete(owners, name)
			least = min(least, left)
		}
		require.Empty(p.T, owners, "limits that the answer lacks")
		require.GreaterOrEqual(p.T, least, 0)
		if least == 0 {
			return
		}
		require.True(p.T, time.Now().Before(deadline), "%s of %s is denied what it has: %s", client, tenant, peek.Body)
		_, err := u.ask(p, client, tenant, 1)
		require.NoError(p.T, err)
	}
}
