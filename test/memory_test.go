package test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

func TestMemory_tenRequestsPassAndTheNextAreDenied(t *testing.T) {
	// No token comes back while the test runs.
	p := harness.Start(t, harness.Settings{"VELOCITY_RATE": "10/h"})
	for i := range 10 {
		a := p.Resource()
		require.Equal(t, http.StatusOK, a.Status, "request %d", i+1)
		require.Equal(t, "10", a.Header.Get("X-RateLimit-Limit"))
		require.Equal(t, []string{"9", "8", "7", "6", "5", "4", "3", "2", "1", "0"}[i], a.Header.Get("X-RateLimit-Remaining"))
		require.Equal(t, `"default";q=10;w=3600`, a.Header.Get("RateLimit-Policy"))
		require.NotEmpty(t, a.Header.Get("RateLimit"))
		require.Empty(t, a.Header.Get("Retry-After"))
	}
	for range 10 {
		a := p.Resource("X-Request-Id: denied-request")
		require.Equal(t, http.StatusTooManyRequests, a.Status)
		assert.Equal(t, "10", a.Header.Get("X-RateLimit-Limit"))
		assert.Equal(t, "0", a.Header.Get("X-RateLimit-Remaining"))
		assert.Equal(t, a.Header.Get("X-RateLimit-Retry-After"), a.Header.Get("Retry-After"))
		assert.Regexp(t, `^3(60|5\d)$`, a.Header.Get("Retry-After"), "a token takes 360 s")
		assert.Equal(t, `"default";q=10;w=3600`, a.Header.Get("RateLimit-Policy"))
		assert.Regexp(t, `^"default";r=0;t=3(60|5\d)$`, a.Header.Get("RateLimit"))
		assert.Empty(t, a.Header.Get("X-RateLimit-Store"))
		assert.Equal(t, "application/problem+json", a.Header.Get("Content-Type"))
		assert.Equal(t, "denied-request", a.Header.Get("X-Request-Id"))
	}
	p.Stop()

	allowed, blocked := p.LogLines("Decision: ALLOWED"), p.LogLines("Decision: BLOCKED (429)")
	require.Len(t, allowed, 10)
	require.Len(t, blocked, 10)
	assert.Equal(t, "127.0.0.1", allowed[0]["userID"])
	assert.InDelta(t, 9, allowed[0]["remaining"], 0)
	assert.InDelta(t, 10, allowed[0]["limit"], 0)
	assert.InDelta(t, 429, blocked[0]["reason"], 0)
	assert.InDelta(t, 355, blocked[0]["retryAfter"], 5)
	assert.Equal(t, "memory", blocked[0]["store"])
	assert.Equal(t, "denied-request", blocked[0]["requestID"])
}

// Without a container, GOMEMLIMIT is the limit.
func TestMemory_defaultsAreLoweredToFit(t *testing.T) {
	t.Run("lowered", func(t *testing.T) {
		p := harness.Start(t, harness.Settings{"GOMEMLIMIT": "57MiB"})
		p.Stop()
		require.Len(t, p.LogLines("Memory limit"), 1)
		lowered := p.LogLines("A default is lowered to fit the memory limit")
		require.NotEmpty(t, lowered)
		assert.Equal(t, "VELOCITY_MEMORY_MAX_BUCKETS", lowered[0]["size"])
		assert.InDelta(t, 1_000_000, lowered[0]["from"], 0)
		assert.Less(t, lowered[0]["to"], 100_000.0)
	})
	t.Run("set", func(t *testing.T) {
		p := harness.Start(t, harness.Settings{"GOMEMLIMIT": "57MiB", "VELOCITY_MEMORY_MAX_BUCKETS": "1000000"})
		p.Stop()
		warned := p.LogLines("A size may not fit the memory limit: lower it, or raise the limit")
		require.Len(t, warned, 1)
		assert.Equal(t, "VELOCITY_MEMORY_MAX_BUCKETS", warned[0]["size"])
		assert.InDelta(t, 1_000_000, warned[0]["set"], 0)
	})
}

func TestMemory_theStartSaysWhereTheBucketsAre(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_ON_STORE_FAILURE": "local", "VELOCITY_CAPACTY": "7"})
	p.Stop()
	started := p.LogLines("Started")
	require.Len(t, started, 1)
	assert.Regexp(t, `, time zones 20\d\d[a-z]$`, started[0]["version"])
	assert.Equal(t, "memory", started[0]["store"])
	assert.Equal(t, "default: 5/s, capacity 10", started[0]["limit"])
	assert.Equal(t, "ip", started[0]["clientKey"])
	assert.Equal(t, "local", started[0]["onStoreFailure"])
	assert.Contains(t, started[0]["decisionAPI"], "protected")
	assert.Len(t, p.LogLines("The buckets are in this process's memory: each process counts on its own, and a restart "+
		"forgets. Set VELOCITY_REDIS_ADDRS to share them"), 1)

	unknown := p.LogLines("This environment variable is no setting")
	require.Len(t, unknown, 1)
	assert.Equal(t, "VELOCITY_CAPACTY", unknown[0]["variable"])
	assert.Equal(t, "VELOCITY_CAPACITY", unknown[0]["nearest"])
}
