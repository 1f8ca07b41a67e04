package test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Many clients of few tenants fight for buckets on three shards, each request needing one token of three of them. No
// bucket ever gives more than it holds; and when the dust settles, each has lost exactly what was admitted: whatever a
// denial took has come back.
func TestContention_limitsOfSeveralKeysNeitherOverAdmitNorLoseATokens(t *testing.T) {
	const clients, tenants, requests = 12, 3, 150
	capacities := map[string]domain.Tokens{"burst": 40, "tenant": 90, "all": 200}
	keys := map[string]domain.Key{
		"tenant": {{Kind: domain.SourceHeader, Name: "x-tenant"}}, "all": {{Kind: domain.SourceGlobal}},
	}
	policy := domain.Policy{
		Name: "search", Key: domain.Key{{Kind: domain.SourceHeader, Name: "x-client"}}, LimitKeys: keys, OnStoreFailure: domain.FailClosed,
	}
	for name, capacity := range capacities {
		limit, err := domain.NewLimit(name, capacity, 1, 1000*time.Hour) // less than a token comes back meanwhile
		require.NoError(t, err)
		policy.Limits = append(policy.Limits, limit)
	}
	for _, inFront := range []bool{false, true} {
		t.Run(fmt.Sprintf("shortcut %v", inFront), func(t *testing.T) {
			limiter := overShards(t, policy, inFront)
			var mu sync.Mutex
			spent := map[string]domain.Tokens{}
			var gun, wg sync.WaitGroup
			gun.Add(1)
			for c := range clients {
				client, tenant := fmt.Sprintf("c%d", c), fmt.Sprintf("t%d", c%tenants)
				for range 4 {
					wg.Go(func() {
						gun.Wait()
						for i := range requests / 4 {
							cost := domain.Tokens(1 + i%3)
							d, err := limiter.Decide(t.Context(), spending(client, tenant, cost))
							if !assert.NoError(t, err) || !d.Allowed() {
								continue
							}
							mu.Lock()
							for _, bucket := range []string{"burst " + client, "tenant " + tenant, "all -"} {
								spent[bucket] += cost
							}
							mu.Unlock()
						}
					})
				}
			}
			gun.Done()
			wg.Wait()

			total := 0
			check := func(name, key, source string) {
				report, err := limiter.Inspect(t.Context(), ports.ClientID{Policy: "search", Key: key, Source: source})
				require.NoError(t, err)
				level := report.Limits[0]
				assert.LessOrEqual(t, spent[name+" "+key], capacities[name], "%s %s gave more than it had", name, key)
				assert.Equal(t, capacities[name]-spent[name+" "+key], level.Limit.Remaining(level.Bucket), "%s %s lost a token", name, key)
				total++
			}
			for c := range clients {
				check("burst", fmt.Sprintf("c%d", c), "")
			}
			for n := range tenants {
				check("tenant", fmt.Sprintf("t%d", n), "header:x-tenant")
			}
			check("all", "-", "global")
			assert.Equal(t, clients+tenants+1, total)
			assert.Positive(t, spent["all -"])
		})
	}
}

func spending(client, tenant string, cost domain.Tokens) domain.Request {
	return domain.Request{Cost: cost, Key: client, Lookup: func(domain.KeySource) (string, error) { return tenant, nil }}
}

// overShards is a limiter of this policy over three Redis servers of its own.
func overShards(t *testing.T, policy domain.Policy, inFront bool) *app.RateLimiter {
	t.Helper()
	_, addrs := redistest.StartN(t, 3)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("s%d=%s", i, addrs[i])
	}
	cfg := redisstore.DefaultConfig(addrs...)
	cfg.TakeTimeout = patience
	store, err := redisstore.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	local, err := memstore.New(memstore.DefaultConfig())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, local.Close()) })
	var buckets ports.BucketStore = store
	if inFront {
		start := time.Now()
		shortcut, err := app.NewShortcut(app.ShortcutConfig{MaxEntries: 1000, MaxAge: time.Second}, store,
			func() time.Duration { return time.Since(start) })
		require.NoError(t, err)
		t.Cleanup(shortcut.Close)
		buckets = shortcut
	}
	policies, err := app.NewSinglePolicy(policy)
	require.NoError(t, err)
	return app.NewRateLimiter(buckets, local, policies, failureReporter{t})
}
