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
	"github.com/velocity-limiter/velocity/internal/app/denialcache"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/test/harness"
)

// Many clients of few tenants take from two buckets and a quota on three shards at once. No limit gives more than it has.
// Afterwards each lacks exactly what was admitted: a denied request has returned what it took.
func TestContention_limitsOfSeveralKeysAreExact(t *testing.T) {
	const clients, tenants, requests = 12, 3, 150
	capacities := map[string]domain.Tokens{"burst": 40, "tenant": 90, "all": 200}
	keys := map[string]clientkey.Key{
		"tenant": {{Kind: clientkey.SourceHeader, Name: "x-tenant"}}, "all": {{Kind: clientkey.SourceGlobal}},
	}
	policy := policy.Policy{
		Name: "search", Key: clientkey.Key{{Kind: clientkey.SourceHeader, Name: "x-client"}}, LimitKeys: keys, OnStoreFailure: policy.FailClosed,
	}
	sinceNow, err := calendar.Parse("day", "", time.Now().UTC().Format(time.RFC3339)) // no day ends meanwhile
	require.NoError(t, err)
	for name, capacity := range capacities {
		limit, err := domain.NewBucket(name, capacity, 1, 1000*time.Hour) // less than a token comes back meanwhile
		if name == "tenant" {
			limit, err = domain.NewQuota(name, capacity, sinceNow)
		}
		require.NoError(t, err)
		policy.Limits = append(policy.Limits, limit)
	}
	for _, withCache := range []bool{false, true} {
		t.Run(fmt.Sprintf("denial cache %v", withCache), func(t *testing.T) {
			limiter := overShards(t, policy, withCache)
			var mu sync.Mutex
			spent := map[string]domain.Tokens{}
			var start, wg sync.WaitGroup
			start.Add(1)
			for c := range clients {
				client, tenant := fmt.Sprintf("c%d", c), fmt.Sprintf("t%d", c%tenants)
				for range 4 {
					wg.Go(func() {
						start.Wait()
						for i := range requests / 4 {
							cost := domain.Tokens(1 + i%3)
							d, err := limiter.Decide(t.Context(), requestOf(client, tenant, cost))
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
			start.Done()
			wg.Wait()

			total := 0
			check := func(name, key, source string) {
				report, err := limiter.Inspect(t.Context(), ports.ClientID{Policy: "search", Key: key, Source: source})
				require.NoError(t, err)
				level := report.Limits[0]
				assert.LessOrEqual(t, spent[name+" "+key], capacities[name], "%s %s gave more than it had", name, key)
				assert.Equal(t, capacities[name]-spent[name+" "+key], level.Limit.Remaining(level.State), "%s %s lost a token", name, key)
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

func requestOf(client, tenant string, cost domain.Tokens) policy.Request {
	return policy.Request{Cost: cost, Key: client, Lookup: func(clientkey.Source) (string, error) { return tenant, nil }}
}

// overShards returns a limiter of this policy over three new Redis servers, with or without the denial cache.
func overShards(t *testing.T, policy policy.Policy, withCache bool) *app.RateLimiter {
	t.Helper()
	_, addrs := redistest.StartN(t, 3)
	for i := range addrs {
		addrs[i] = fmt.Sprintf("s%d=%s", i, addrs[i])
	}
	cfg := redisstore.DefaultConfig(addrs...)
	cfg.TakeTimeout = harness.Timeout
	store, err := redisstore.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	local, err := memstore.New(memstore.DefaultConfig())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, local.Close()) })
	var buckets ports.BucketStore = store
	if withCache {
		start := time.Now()
		cache, err := denialcache.New(denialcache.Config{MaxEntries: 1000, MaxAge: time.Second}, store,
			func() time.Duration { return time.Since(start) })
		require.NoError(t, err)
		t.Cleanup(cache.Close)
		buckets = cache
	}
	policies, err := app.NewSinglePolicy(policy)
	require.NoError(t, err)
	return app.NewRateLimiter(buckets, local, policies, failureReporter{t})
}
