package redisserver_test

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/bench/internal/redisserver"
)

func TestServer_countsWhatClientsAndScriptsDo(t *testing.T) {
	ctx := t.Context()
	s, err := redisserver.Start(ctx, "")
	require.NoError(t, err)
	defer func() { assert.NoError(t, s.Close()) }()
	client := redis.NewClient(&redis.Options{Addr: s.Addr, DisableIdentity: true})
	defer client.Close()
	require.NoError(t, client.Ping(ctx).Err())

	before, err := s.Counters(ctx)
	require.NoError(t, err)
	script := `redis.call('SET', KEYS[1], 1) redis.call('INCR', KEYS[1]) return 1`
	for range 10 {
		require.NoError(t, client.Eval(ctx, script, []string{"k"}).Err())
	}
	after, err := s.Counters(ctx)
	require.NoError(t, err)

	used := after.Sub(before)
	assert.EqualValues(t, 30, used.Commands, "ten scripts of two commands")
	assert.EqualValues(t, 10, used.Scripts)
	assert.Positive(t, used.CPU)

	_, keys, err := s.Memory(ctx)
	require.NoError(t, err)
	assert.EqualValues(t, 1, keys)
	require.NoError(t, s.Flush(ctx))
	_, keys, err = s.Memory(ctx)
	require.NoError(t, err)
	assert.Zero(t, keys)
}
