package main

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
)

func TestWatchPanics_logsTheFirstWithItsStack(t *testing.T) {
	m, err := redisstore.NewRedisShardManager("127.0.0.1:1")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, m.Close()) })
	core, logged := observer.New(zapcore.DebugLevel)
	watchPanics(m, zap.New(core))
	for range 100 {
		_ = m.Panicked("shard-0", errors.New("out of order"))
	}
	require.Equal(t, 1, logged.Len(), "each call may panic")
	line := logged.All()[0]
	assert.Equal(t, msgPanic, line.Message)
	assert.Equal(t, "shard-0", line.ContextMap()["shard"])
	assert.Equal(t, "out of order", line.ContextMap()["reason"])
	assert.Contains(t, line.ContextMap()["stack"], "TestWatchPanics")
}
