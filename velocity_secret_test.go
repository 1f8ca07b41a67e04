package velocity_test

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

func TestKeySecret_redisHoldsNoKey(t *testing.T) {
	server := redistest.Start(t)
	config := velocity.Config{
		Limits: []velocity.Limit{velocity.PerHour(2)}, Redis: []string{server.Addr}, KeySecret: "0123456789abcdef0123456789abcdef",
	}
	l, err := velocity.New(config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	for _, want := range []bool{true, true, false} {
		allowed, err := l.Allow(t.Context(), "raw-key")
		require.NoError(t, err)
		assert.Equal(t, want, allowed)
	}
	c := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer func() { _ = c.Close() }()
	keys, err := c.Keys(t.Context(), "*default*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 1)
	assert.Regexp(t, `^velocity:\{default:h:key=hmac:[0-9a-f]{64}\}$`, keys[0])
	require.NoError(t, l.Reset(t.Context(), "raw-key"))
	allowed, err := l.Allow(t.Context(), "raw-key")
	require.NoError(t, err)
	assert.True(t, allowed)
}

func TestKeySecret_mustBeLong(t *testing.T) {
	_, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.PerHour(2)}, KeySecret: "short-one"})
	require.ErrorContains(t, err, "KeySecret: 9 bytes: must have at least 16 bytes")
	assert.NotContains(t, err.Error(), "short-one")
}
