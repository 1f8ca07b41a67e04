package redisstore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Close ends every goroutine at once, also those that wait for a server that does not answer. The time-outs are long here, so
// one that outlives its store is seen.
func TestClose_endsEveryGoroutine(t *testing.T) {
	dead := deadServers(t)
	for _, topology := range []redisstore.Topology{
		redisstore.TopologyShards, redisstore.TopologyCluster, redisstore.TopologySentinel,
	} {
		for name, addr := range dead {
			for _, secure := range []bool{false, true} {
				cfg := config(addr)
				cfg.Topology, cfg.TLS = topology, secure
				if topology == redisstore.TopologySentinel {
					cfg.SentinelMaster = redistest.SentinelMaster
				}
				t.Run(fmt.Sprintf("%s, %s, TLS: %v", topology, name, secure), func(t *testing.T) { closesWhileAsking(t, cfg, "a", "b", "c") })
			}
		}
	}
}

// closesWhileAsking closes a store while callers wait for the decisions about these clients.
func closesWhileAsking(t *testing.T, cfg redisstore.Config, clients ...string) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	s, err := redisstore.New(cfg)
	require.NoError(t, err)
	l := limit(t, "burst", "1/h", 10)
	var callers sync.WaitGroup
	for _, client := range clients {
		for _, ctx := range []context.Context{context.WithoutCancel(t.Context()), t.Context()} {
			callers.Go(func() { _ = ports.Take(ctx, s, take(client, 1, l)) })
		}
	}
	callers.Go(func() { s.CheckHealth(t.Context()) })
	time.Sleep(20 * time.Millisecond) // most of them wait for a server by now

	start := time.Now()
	require.NoError(t, s.Close())
	callers.Wait()
	assert.Less(t, time.Since(start), slack)
	goleak.VerifyNone(t, before)
}
