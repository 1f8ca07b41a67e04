package test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/client"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// Two hundred goroutines share one client, and so its calls: each of the twenty keys gets its ten tokens, no more and no
// fewer.
func TestClient_aCrowdGetsExactlyTheCapacity(t *testing.T) {
	const keys, askers, capacity = 20, 200, 10
	p := start(t, settings{
		"REDIS_ADDR": redistest.Start(t).Addr, "VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": fmt.Sprint(capacity),
		"VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_API_TOKEN": "token",
		"VELOCITY_TAKE_TIMEOUT": "20s", "VELOCITY_ON_STORE_FAILURE": "closed",
	})
	c, err := client.New(client.Config{
		URL: p.url, Token: "token", Timeout: patience, HTTPClient: p.client, // so that the contract is held, too
	})
	require.NoError(t, err)
	var (
		gun, wg sync.WaitGroup
		allowed [keys]atomic.Int64
	)
	gun.Add(1)
	for range askers {
		wg.Go(func() {
			gun.Wait()
			for k := range keys {
				ok, err := c.Allow(t.Context(), fmt.Sprint("key-", k))
				if assert.NoError(t, err) && ok {
					allowed[k].Add(1)
				}
			}
		})
	}
	gun.Done()
	wg.Wait()
	for k := range keys {
		assert.EqualValues(t, capacity, allowed[k].Load(), "key %d", k)
	}

	r, err := c.Refund(t.Context(), client.Check{Key: "key-0", Cost: client.Tokens(4)})
	require.NoError(t, err)
	assert.EqualValues(t, 4, r.Remaining)
	r, err = c.Charge(t.Context(), client.Check{Key: "key-0", Cost: client.Tokens(7)})
	require.NoError(t, err)
	assert.EqualValues(t, -3, r.Remaining)
	answers, err := c.CheckMany(t.Context(), []client.Check{{Key: "new", Cost: client.Tokens(9)}, {Key: "new"}, {Key: "new"}})
	require.NoError(t, err)
	assert.Equal(t, []bool{true, true, false},
		[]bool{answers[0].Result.Allowed, answers[1].Result.Allowed, answers[2].Result.Allowed})
	_, err = c.Check(t.Context(), client.Check{Key: "a", Policy: "other"})
	require.ErrorIs(t, err, client.ErrUnknownPolicy)
}
