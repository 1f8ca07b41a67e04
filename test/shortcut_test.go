package test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// A client over its limit that keeps asking is answered without Redis: the verdict is the one that Redis gave.
func TestShortcut_aFloodOfDenialsHardlyReachesRedis(t *testing.T) {
	const capacity, denials = 10, 1000
	server := redistest.Start(t)
	p := start(t, settings{
		"VELOCITY_REDIS_ADDRS":      server.Addr,
		"VELOCITY_CAPACITY":         strconv.Itoa(capacity),
		"VELOCITY_RATE":             "1/h",
		"VELOCITY_TAKE_TIMEOUT":     "20s",
		"VELOCITY_ON_STORE_FAILURE": "closed",
		"VELOCITY_SHORTCUT_MAX_AGE": "1m", // a slow machine must not make the shortcut forget during the test
	})
	for range capacity {
		require.Equal(t, http.StatusOK, p.resource().status)
	}
	require.Equal(t, http.StatusTooManyRequests, p.resource().status)
	before := scripts(t, server.Addr)
	for range denials {
		a := p.resource()
		require.Equal(t, http.StatusTooManyRequests, a.status)
		require.Equal(t, "0", a.header.Get("X-RateLimit-Remaining"))
		wait, err := strconv.Atoi(a.header.Get("Retry-After"))
		require.NoError(t, err)
		require.InDelta(t, 3600, wait, 120)
	}
	assert.LessOrEqual(t, scripts(t, server.Addr)-before, denials/100)

	check := p.mustAsk(http.MethodPost, p.url+"/v1/check", `{"key":"127.0.0.1"}`)
	require.Equal(t, http.StatusOK, check.status, check.body)
	assert.Equal(t, "shortcut", check.json(t)["store"])
	refund := p.mustAsk(http.MethodPost, p.url+"/v1/refund", `{"key":"127.0.0.1","cost":1}`)
	require.Equal(t, http.StatusOK, refund.status, refund.body)
	assert.Equal(t, http.StatusOK, p.resource().status, "a refund is not forgotten")
}

// scripts counts the script's runs at a server.
func scripts(t *testing.T, addr string) int {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr})
	defer func() { assert.NoError(t, c.Close()) }()
	info, err := c.Info(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	total := 0
	for line := range strings.Lines(info) {
		if !strings.HasPrefix(line, "cmdstat_eval") {
			continue
		}
		_, calls, _ := strings.Cut(line, "calls=")
		calls, _, _ = strings.Cut(calls, ",")
		n, err := strconv.Atoi(calls)
		require.NoError(t, err, line)
		total += n
	}
	return total
}
