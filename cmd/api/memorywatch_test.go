package main

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func TestWatchMemory_warnsOncePerIntervalWithEvictions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		buckets, err := memstore.New(memstore.Config{MaxBuckets: 100})
		require.NoError(t, err)
		defer func() { assert.NoError(t, buckets.Close()) }()
		core, logged := observer.New(zapcore.WarnLevel)
		s := &service{Store: &store{}, Local: localStore{buckets}, Log: zap.New(core)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.watchMemory(ctx) }()

		limit, err := domain.NewBucket("default", 10, 1, time.Hour)
		require.NoError(t, err)
		fill := func(clients int) {
			for i := range clients {
				key := clientkey.NewBucketKey("default", clientkey.Source{}, fmt.Sprint(i))
				take := ports.TakeRequest{Key: key, Limits: []domain.Limit{limit}, Cost: 1}
				require.NoError(t, ports.Take(ctx, buckets, take).Err)
			}
		}
		fill(10)
		time.Sleep(memoryInterval + time.Second)
		assert.Zero(t, logged.Len(), "no eviction yet")

		fill(1000)
		time.Sleep(3 * memoryInterval)
		require.Equal(t, 1, logged.Len())
		evicted := buckets.Stats().Evictions
		fields := logged.All()[0].ContextMap()
		assert.Equal(t, "local", fields["store"])
		assert.Equal(t, evicted, fields["evicted"])

		fill(1000)
		time.Sleep(memoryInterval)
		require.Equal(t, 2, logged.Len())
		assert.Equal(t, buckets.Stats().Evictions-evicted, logged.All()[1].ContextMap()["evicted"], "the new ones")
		cancel()
		<-done
	})
}
