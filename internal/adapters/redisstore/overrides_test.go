package redisstore_test

import (
	"context"
	"flag"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/overrides"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/ports/porttest"
)

// node is the overrides of one process, which follows the servers until stop.
type node struct {
	*overrides.Store
	stop func()
}

func newNode(t testing.TB, cfg redisstore.Config, bounds ports.OverrideBounds) *node {
	t.Helper()
	s := newStore(t, cfg)
	o, err := s.Manager().Overrides(bounds)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { o.FollowOverrides(ctx) })
	n := &node{o, sync.OnceFunc(func() {
		cancel()
		following.Wait()
		assert.NoError(t, o.Close())
		assert.NoError(t, s.Close())
	})}
	t.Cleanup(n.stop)
	return n
}

func overrideHarness(configure func() redisstore.Config, flush func(t *testing.T), unreachable func(t *testing.T) redisstore.Config) porttest.OverrideHarness {
	h := porttest.OverrideHarness{
		New: func(t *testing.T, bounds ports.OverrideBounds) (a, b ports.OverrideStore) {
			flush(t)
			return newNode(t, configure(), bounds), newNode(t, configure(), bounds)
		},
	}
	if unreachable != nil {
		h.Unreachable = func(t *testing.T) ports.OverrideStore {
			return newNode(t, unreachable(t), ports.DefaultOverrideBounds)
		}
	}
	return h
}

func flushing(addrs ...string) func(t *testing.T) {
	return func(t *testing.T) {
		for _, addr := range addrs {
			require.NoError(t, plainClient(t, addr).FlushAll(t.Context()).Err())
		}
	}
}

func refusing(t *testing.T) redisstore.Config { return redisstore.DefaultConfig(redistest.Refusing(t)) }

func TestOverrideStore_oneRedis(t *testing.T) {
	t.Parallel()
	_, addrs := redistest.StartN(t, 1)
	porttest.TestOverrideStore(t, overrideHarness(func() redisstore.Config { return redisstore.DefaultConfig(addrs...) }, flushing(addrs...), refusing))
}

func TestOverrideStore_threeShards(t *testing.T) {
	t.Parallel()
	_, addrs := redistest.StartN(t, 3)
	porttest.TestOverrideStore(t, overrideHarness(func() redisstore.Config { return redisstore.DefaultConfig(addrs...) }, flushing(addrs...), refusing))
}

var timeOverrides = flag.Bool("overrides.timed", false, "check how soon overrides reach other nodes: on a machine with nothing else to do")

// Nodes see a change after half the interval of their polls, in the mean. How soon is checked with -overrides.timed only.
func TestOverrides_reachOtherNodesWithinASecond(t *testing.T) {
	if !*timeOverrides {
		t.Parallel()
	}
	_, addrs := redistest.StartN(t, 2)
	a := newNode(t, redisstore.DefaultConfig(addrs...), ports.DefaultOverrideBounds)
	b := newNode(t, redisstore.DefaultConfig(addrs...), ports.DefaultOverrideBounds)
	require.Eventually(t, func() bool { return b.OverridesStatus().Known }, patient, time.Millisecond)
	var took []time.Duration
	for i := range 100 {
		key := clientKey(strconv.Itoa(i))
		began := time.Now()
		_, after, err := a.ChangeOverride(t.Context(), key, &override.Value{Effect: "block", Client: strconv.Itoa(i)})
		require.NoError(t, err)
		for {
			if got, _ := b.Overrides().Get(key); got == after {
				break
			}
			require.Less(t, time.Since(began), patient)
			time.Sleep(time.Millisecond)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("median %v, most %v", took[50], took[99])
	if !*timeOverrides {
		return
	}
	assert.Less(t, took[50], 200*time.Millisecond)
	assert.Less(t, took[99], time.Second)
}

func clientKey(client string) clientkey.BucketKey {
	return clientkey.NewBucketKey("search", clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client"}, client)
}
