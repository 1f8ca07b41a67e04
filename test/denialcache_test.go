package test

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// A client over its limit is denied without Redis until the wait that Redis has given is over.
func TestDenialCache_aFloodOfDenialsHardlyReachesRedis(t *testing.T) {
	const capacity, denials = 10, 1000
	server := redistest.Start(t)
	p := harness.Start(t, harness.Settings{
		"VELOCITY_REDIS_ADDRS":      server.Addr,
		"VELOCITY_CAPACITY":         strconv.Itoa(capacity),
		"VELOCITY_RATE":             "1/h",
		"VELOCITY_TAKE_TIMEOUT":     "20s",
		"VELOCITY_ON_STORE_FAILURE": "closed",
		"VELOCITY_SHORTCUT_MAX_AGE": "1m", // longer than the test takes on a slow machine
	})
	for range capacity {
		require.Equal(t, http.StatusOK, p.Resource().Status)
	}
	require.Equal(t, http.StatusTooManyRequests, p.Resource().Status)
	asked := func() float64 { return p.Metric("velocity_shard_batch_groups_count") } // Redis counts what follows overrides, too
	before := asked()
	require.GreaterOrEqual(t, before, float64(capacity))
	for range denials {
		a := p.Resource()
		require.Equal(t, http.StatusTooManyRequests, a.Status)
		require.Equal(t, "0", a.Header.Get("X-RateLimit-Remaining"))
		wait, err := strconv.Atoi(a.Header.Get("Retry-After"))
		require.NoError(t, err)
		require.InDelta(t, 3600, wait, 120)
	}
	assert.LessOrEqual(t, asked()-before, float64(denials/100))

	check := p.MustDo(http.MethodPost, p.URL+"/v1/check", `{"key":"127.0.0.1"}`)
	require.Equal(t, http.StatusOK, check.Status, check.Body)
	assert.Equal(t, "shortcut", check.JSON(t)["store"])
	refund := p.MustDo(http.MethodPost, p.URL+"/v1/refund", `{"key":"127.0.0.1","cost":1}`)
	require.Equal(t, http.StatusOK, refund.Status, refund.Body)
	assert.Equal(t, http.StatusOK, p.Resource().Status, "a refund is not forgotten")
}
