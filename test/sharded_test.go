package test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

func TestSharded_twoProcessesShareEachClientsLimitExactly(t *testing.T) {
	const clients, requests, capacity = 20, 300, 10
	_, addrs := redistest.StartN(t, 3)
	var shards []string
	for i, addr := range addrs {
		shards = append(shards, fmt.Sprintf("s%d=%s", i, addr)) // names keep the same clients on the same shards in each run
	}
	vars := harness.Settings{
		"VELOCITY_REDIS_ADDRS": strings.Join(shards, ","),
		"VELOCITY_CAPACITY":    fmt.Sprint(capacity),
		"VELOCITY_RATE":        "10/h", // no token comes back during the test
		"VELOCITY_CLIENT_KEY":  "header:X-Client-ID",
		// On a slow machine the failure policy must not decide. If it does, closed makes it visible.
		"VELOCITY_TAKE_TIMEOUT":     "20s",
		"VELOCITY_ON_STORE_FAILURE": "closed",
	}
	processes := []*harness.Process{harness.Start(t, vars), harness.Start(t, vars)}

	for c := range clients {
		client := fmt.Sprintf("X-Client-ID: client-%d", c)
		statuses := burst(t, requests, func(i int) (harness.Response, error) {
			p := processes[i%len(processes)]
			return p.Do(http.MethodGet, p.URL+"/api/resource", "", client)
		})
		require.Equal(t, map[int]int{
			http.StatusOK: capacity, http.StatusTooManyRequests: requests - capacity,
		}, statuses, client)
	}

	for _, addr := range addrs {
		shard := redis.NewClient(&redis.Options{Addr: addr})
		keys, err := shard.DBSize(t.Context()).Result()
		require.NoError(t, err)
		assert.Positive(t, keys, "every shard holds buckets")
		require.NoError(t, shard.Close())
	}
	for _, p := range processes {
		p.Stop()
		assert.Len(t, p.LogLines("Shard"), 3)
		assert.Equal(t, "redis", p.LogLines("Started")[0]["store"])
	}
}

// burst sends n requests at once and counts the statuses.
func burst(t *testing.T, n int, ask func(i int) (harness.Response, error)) map[int]int {
	t.Helper()
	var (
		gun, wg  sync.WaitGroup
		mu       sync.Mutex
		statuses = map[int]int{}
		errs     []error
	)
	gun.Add(1)
	for i := range n {
		wg.Go(func() {
			gun.Wait()
			a, err := ask(i)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			statuses[a.Status]++
		})
	}
	gun.Done()
	wg.Wait()
	require.Empty(t, errs)
	return statuses
}
