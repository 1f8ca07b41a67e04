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
)

func TestSharded_twoProcessesShareEachClientsLimitExactly(t *testing.T) {
	const clients, requests, capacity = 20, 300, 10
	_, addrs := redistest.StartN(t, 3)
	var shards []string
	for i, addr := range addrs {
		shards = append(shards, fmt.Sprintf("s%d=%s", i, addr)) // named, so that each run places the clients alike
	}
	vars := settings{
		"VELOCITY_REDIS_ADDRS": strings.Join(shards, ","),
		"VELOCITY_CAPACITY":    fmt.Sprint(capacity),
		"VELOCITY_RATE":        "10/h", // nothing refills meanwhile
		"VELOCITY_CLIENT_KEY":  "header:X-Client-ID",
		// A slow machine must not turn this into a test of the failure policy, which closed would make visible.
		"VELOCITY_TAKE_TIMEOUT":     "20s",
		"VELOCITY_ON_STORE_FAILURE": "closed",
	}
	processes := []*process{start(t, vars), start(t, vars)}

	for c := range clients {
		client := fmt.Sprintf("X-Client-ID: client-%d", c)
		statuses := burst(t, requests, func(i int) (answer, error) {
			p := processes[i%len(processes)]
			return p.ask(http.MethodGet, p.url+"/api/resource", "", client)
		})
		require.Equal(t, map[int]int{
			http.StatusOK: capacity, http.StatusTooManyRequests: requests - capacity,
		}, statuses, client)
	}

	for _, addr := range addrs {
		shard := redis.NewClient(&redis.Options{Addr: addr})
		keys, err := shard.DBSize(t.Context()).Result()
		require.NoError(t, err)
		assert.Positive(t, keys, "every shard has a part")
		require.NoError(t, shard.Close())
	}
	for _, p := range processes {
		p.stop()
		assert.Len(t, p.logged("Shard"), 3)
		assert.Equal(t, "redis", p.logged("Started")[0]["store"])
	}
}

// burst asks n times at once and counts the statuses.
func burst(t *testing.T, n int, ask func(i int) (answer, error)) map[int]int {
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
			statuses[a.status]++
		})
	}
	gun.Done()
	wg.Wait()
	require.Empty(t, errs)
	return statuses
}
