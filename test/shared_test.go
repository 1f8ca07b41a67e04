package test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

const sharing = `
shared:
  - name: tenant
    key: header:X-Tenant
    rate: 1/h
    capacity: 6
    overrides: [ { keys: ["big-*"], limits: [ { capacity: 9 } ] } ]
  - { name: yearly, key: header:X-Tenant, quota: 7/year }
policies:
  - { name: read,  match: { path: /read },  key: "header:X-Client", limits: [ { name: burst, rate: 1/h, capacity: 99 }, { use: tenant } ] }
  - { name: write, match: { path: /write }, limits: [ { use: yearly }, { use: tenant } ], refund_on: [503] }
  - { name: trial, match: { path: /trial }, mode: shadow, limits: [ { name: own, rate: 1/h, capacity: 5 }, { use: tenant } ] }
`

// tokens are those that a tenant has left of a shared limit.
func (p *protected) tokens(limit, tenant string) float64 {
	p.T.Helper()
	a := p.MustDo(http.MethodGet, p.Admin+"/v1/buckets/shared%2F"+limit+"/"+tenant, "")
	require.Equal(p.T, http.StatusOK, a.Status, a.Body)
	report := a.JSON(p.T)
	assert.Equal(p.T, "shared/"+limit, report["policy"])
	l := report["limits"].([]any)[0].(map[string]any)
	if used, isQuota := l["used"]; isQuota {
		return l["limit"].(float64) - used.(float64)
	}
	return l["tokens"].(float64)
}

func TestShared_policiesTakeFromOneBucketOverThreeShards(t *testing.T) {
	p := protect(t, sharing)
	for _, tenant := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "big-1"} {
		capacity := 6
		if tenant == "big-1" {
			capacity = 9
		}
		statuses := burst(t, 16, func(i int) (harness.Response, error) {
			path := []string{"/read", "/write"}[i%2]
			return p.Do(http.MethodGet, p.URL+path, "", "X-Tenant: "+tenant, fmt.Sprintf("X-Client: %d", i))
		})
		assert.LessOrEqual(t, statuses[http.StatusOK], capacity, tenant)
		assert.Equal(t, 16, statuses[http.StatusOK]+statuses[http.StatusTooManyRequests], "%v", statuses)
		for p.get("/read", "X-Tenant: "+tenant).Status == http.StatusOK { // tokens of requests that were denied by the quota come back
			statuses[http.StatusOK]++
		}
		assert.Equal(t, capacity, statuses[http.StatusOK], tenant)
		assert.Contains(t, p.keys(), "velocity:{shared/tenant:h:x-tenant="+tenant+"}")
		assert.Equal(t, http.StatusTooManyRequests, p.get("/write", "X-Tenant: "+tenant).Status)
	}
	used := 0
	for _, addr := range p.addrs {
		shard := redis.NewClient(&redis.Options{Addr: addr})
		keys, err := shard.Keys(t.Context(), "velocity:{shared/tenant:*}").Result()
		require.NoError(t, err)
		require.NoError(t, shard.Close())
		used += min(len(keys), 1)
	}
	assert.Greater(t, used, 1, "more than one shard holds tenants")
	p.Stop()
}

func TestShared_quotaShadowRefundInspectAndReset(t *testing.T) {
	p := protect(t, sharing)
	const acme = "X-Tenant: acme"
	for range 4 {
		require.Equal(t, http.StatusOK, p.get("/write", acme).Status)
	}
	assert.InDelta(t, 3, p.tokens("yearly", "acme"), 0)
	assert.InDelta(t, 2, p.tokens("tenant", "acme"), 0.1)
	require.Equal(t, http.StatusServiceUnavailable, p.get("/write", acme, "X-Answer: 503").Status)
	require.Eventually(t, func() bool { return p.tokens("yearly", "acme") == 3 && p.tokens("tenant", "acme") >= 2 },
		harness.Timeout, harness.Interval, "refund_on gives back to shared limits, too")

	trial := p.get("/trial", acme)
	assert.Equal(t, "allowed", trial.Header.Get("X-RateLimit-Shadow"))
	assert.InDelta(t, 2, p.tokens("tenant", "acme"), 0.1, "a policy in shadow mode takes nothing from it")
	for range 2 {
		require.Equal(t, http.StatusOK, p.get("/read", acme).Status)
	}
	trial = p.get("/trial", acme)
	assert.Equal(t, http.StatusOK, trial.Status)
	assert.Equal(t, "denied", trial.Header.Get("X-RateLimit-Shadow"), "the shared limit would deny")
	assert.Contains(t, p.get("/read", acme).Body, `"violated-policies":["tenant"]`)

	assert.Regexp(t, `acme under shared/tenant, by header:x-tenant, in redis\n\n.*\ntenant +1/h +0`, adminCommand(t, p.Process, 0, "inspect", "-policy", "shared/tenant", "acme"))
	assert.Contains(t, adminCommand(t, p.Process, 1, "inspect", "-policy", "shared/none", "acme"),
		`-policy: "shared/none": there is no policy of this name: the service has read, write, trial, shared/tenant, shared/yearly`)
	assert.Contains(t, adminCommand(t, p.Process, 1, "inspect", "-policy", "write", "acme"), "has no limits of its own, only shared ones: name one, as in shared/yearly")
	assert.Contains(t, adminCommand(t, p.Process, 1, "top", "-policy", "shared/tenant"), "there is no policy of this name: the service has read, write, trial\n")
	adminCommand(t, p.Process, 0, "reset", "-policy", "shared/tenant", "-yes", "acme")
	assert.InDelta(t, 6, p.tokens("tenant", "acme"), 0)
	assert.InDelta(t, 3, p.tokens("yearly", "acme"), 0)
	assert.Equal(t, http.StatusNotFound, p.check(`{"policy": "shared/tenant", "key": "acme"}`).Status, "no policy asks, so no failure mode holds")
	p.Stop()
}

func TestShared_reloadKeepsLiveBuckets(t *testing.T) {
	p := protect(t, sharing)
	for range 4 {
		require.Equal(t, http.StatusOK, p.get("/read", "X-Tenant: acme").Status)
	}
	p.replace(strings.NewReplacer("capacity: 6", "capacity: 10", "name: read", "name: renamed").Replace(sharing))
	require.Equal(t, http.StatusOK, p.reload().Status)
	assert.InDelta(t, 2, p.tokens("tenant", "acme"), 0.1, "whatever the policies are called")
	p.replace(strings.ReplaceAll(sharing, "use: tenant", "use: tennant"))
	broken := p.reload()
	require.Equal(t, http.StatusUnprocessableEntity, broken.Status)
	assert.Contains(t, broken.Body, "is no shared limit: the shared limits are tenant, yearly")
	require.Equal(t, http.StatusOK, p.get("/read", "X-Tenant: acme").Status)
	assert.InDelta(t, 1, p.tokens("tenant", "acme"), 0.1)
	p.Stop()
}
