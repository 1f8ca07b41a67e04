package redistest_test

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

func TestServer_killAndRestartKeepTheAddress(t *testing.T) {
	s := redistest.Start(t, redistest.Args("--appendonly", "yes", "--appendfsync", "always"))
	client := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { _ = client.Close() })
	require.NoError(t, client.Set(t.Context(), "k", "v", 0).Err())
	first, addr := s.PID(), s.Addr

	s.Kill()
	require.Error(t, client.Ping(t.Context()).Err())

	s.Restart()
	assert.Equal(t, addr, s.Addr)
	assert.NotEqual(t, first, s.PID())
	assert.Equal(t, "v", client.Get(t.Context(), "k").Val(), "what was in the append-only file is there again")
}

func TestStartN_serversDoNotShareData(t *testing.T) {
	_, addrs := redistest.StartN(t, 2)
	require.NotEqual(t, addrs[0], addrs[1])
	for i, addr := range addrs {
		client := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { _ = client.Close() })
		assert.Zero(t, client.DBSize(t.Context()).Val(), "server %d", i)
		require.NoError(t, client.Set(t.Context(), "k", "v", 0).Err())
	}
}
