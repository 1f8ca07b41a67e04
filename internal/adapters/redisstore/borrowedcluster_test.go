package redisstore_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The client would wait for minutes, whatever its context says. Nothing here does.
func TestBorrowed_nothingWaitsForAClusterThatDoesNotAnswer(t *testing.T) {
	c := redistest.StartCluster(t, 1, 0)
	l := limit(t, "burst", "1/h", 10)
	for name, options := range map[string]redis.ClusterOptions{
		"a long time-out":    {ReadTimeout: 2 * patient},
		"deadlines of calls": {ReadTimeout: 2 * patient, ContextTimeoutEnabled: true}, // cancelling is not heeded
		"no time-out at all": {ReadTimeout: -1},
		"defaults":           {},
	} {
		t.Run(name, func(t *testing.T) {
			options.Addrs = c.Addrs()
			cfg := borrowing(t, redis.NewClusterClient(&options))
			cfg.TakeTimeout = patient
			known := newStore(t, cfg)
			takeOne(t, known, "alice", 1, l)
			cfg.TakeTimeout = 100 * time.Millisecond
			retrying := newStore(t, cfg)
			takeOne(t, retrying, "alice", 1, l)
			unread := newStore(t, cfg)
			c.Nodes[0].Pause()
			defer c.Nodes[0].Resume()

			require.Error(t, ports.Take(t.Context(), retrying, take("alice", 1, l)).Err) // after which it reads the table again
			for _, s := range []*redisstore.Store{known, retrying, unread} {
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				health := s.CheckHealth(ctx)
				cancel()
				require.Len(t, health, 1)
				require.ErrorIs(t, health[0].Err, ports.ErrUnavailable)
				if s != known {
					s.Manager().GetClient("anybody")
				}
				require.NoError(t, s.Close())
				assert.Less(t, time.Since(began), slack)
			}
		})
	}
}

// A hook of the caller's client may panic. It runs on goroutines of the store, where a panic would end the process.
func TestBorrowed_aPanicOfAHookIsAFailure(t *testing.T) {
	c := redistest.StartCluster(t, 1, 0)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
	cfg := borrowing(t, client)
	s := newStore(t, cfg)
	takeOne(t, s, "alice", 1, limit(t, "burst", "1/h", 10))
	panics := make(chan string, 100)
	s.Manager().OnPanic(func(_ string, p *failure.PanicError) { panics <- p.Error() })
	client.AddHook(panicking{})

	r := ports.Take(t.Context(), s, take("alice", 1, limit(t, "burst", "1/h", 10)))
	require.ErrorIs(t, r.Err, ports.ErrUnavailable)
	assert.Equal(t, failure.Panic, failure.Classify(r.Err).Kind)
	assert.Equal(t, "a panic: out of order", <-panics)
	health := s.CheckHealth(t.Context()) // it reads the table of slots first
	require.Len(t, health, 1)
	assert.Equal(t, failure.Panic, failure.Classify(health[0].Err).Kind)
	assert.Equal(t, "a panic: out of order", <-panics)
}

type panicking struct{}

func (panicking) DialHook(next redis.DialHook) redis.DialHook { return next }

func (panicking) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(context.Context, redis.Cmder) error { panic("out of order") }
}

func (panicking) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(context.Context, []redis.Cmder) error { panic("out of order") }
}

// With a function ClusterSlots, go-redis spreads keys over servers that are no cluster.
func TestBorrowed_aClusterOfTheCallersOwnSlots(t *testing.T) {
	_, addrs := redistest.StartN(t, 2)
	table := []redis.ClusterSlot{ // not in order
		{Start: 8192, End: 16383, Nodes: []redis.ClusterNode{{Addr: addrs[1]}}},
		{Start: 0, End: 8191, Nodes: []redis.ClusterNode{{Addr: addrs[0]}}},
	}
	s := newStore(t, borrowing(t, redis.NewClusterClient(&redis.ClusterOptions{
		ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) { return table, nil },
	})))
	for _, client := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		takeOne(t, s, client, 1, limit(t, "burst", "1/h", 10))
	}
	health := s.CheckHealth(t.Context())
	require.Len(t, health, 2)
	for _, h := range health {
		assert.NoError(t, h.Err)
	}
	for _, addr := range addrs {
		assert.NotEqual(t, "0", calls(t, plainClient(t, addr), "evalsha"))
	}
	assert.Equal(t, 8192, table[0].Start, "the caller's table is as it was")
}

// After Close a caller's client, which is open, is not asked any more.
func TestBorrowed_afterCloseNothingIsDecided(t *testing.T) {
	l := limit(t, "burst", "1/h", 10)
	closed := func(t *testing.T, server *redistest.Server, client redis.UniversalClient) {
		s := newStore(t, borrowing(t, client))
		takeOne(t, s, "alice", 1, l)
		require.NoError(t, s.Close())
		before := calls(t, plainClient(t, server.Addr), "evalsha")

		for _, n := range []int{1, 2} {
			reqs, results := []ports.TakeRequest{take("alice", 1, l), take("bob", 1, l)}[:n], make([]ports.TakeResult, n)
			s.TakeMany(t.Context(), reqs, results)
			for _, r := range results {
				require.ErrorIs(t, r.Err, ports.ErrUnavailable)
				require.ErrorIs(t, r.Err, redis.ErrClosed, "as with connections of the store's own")
			}
		}
		for _, check := range []func(context.Context) []ports.ShardHealth{s.CheckHealth, s.CheckPermissions} {
			health := check(t.Context())
			require.Len(t, health, 1)
			require.ErrorIs(t, health[0].Err, ports.ErrUnavailable)
		}
		assert.Equal(t, before, calls(t, plainClient(t, server.Addr), "evalsha"))
	}
	t.Run("client", func(t *testing.T) {
		server := redistest.Start(t)
		closed(t, server, redis.NewClient(&redis.Options{Addr: server.Addr}))
	})
	t.Run("cluster", func(t *testing.T) {
		c := redistest.StartCluster(t, 1, 0)
		closed(t, c.Nodes[0], redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()}))
	})
}

// A call that was under way when the store was closed may find a new node, whose batcher must not start probes.
func TestBorrowed_aNodeThatIsFoundAfterCloseIsNotProbed(t *testing.T) {
	var node atomic.Pointer[string]
	node.Store(&redistest.Start(t).Addr)
	client := redis.NewClusterClient(&redis.ClusterOptions{
		ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
			return []redis.ClusterSlot{{Start: 0, End: 16383, Nodes: []redis.ClusterNode{{Addr: *node.Load()}}}}, nil
		},
	})
	s := newStore(t, borrowing(t, client))
	l := limit(t, "burst", "1/h", 10)
	takeOne(t, s, "alice", 1, l)
	old := redisstore.BatcherFor(s, "alice")
	require.NoError(t, s.Close())

	failing := redistest.Start(t)
	require.NoError(t, plainClient(t, failing.Addr).ConfigSet(t.Context(), "requirepass", "unknown").Err())
	node.Store(&failing.Addr)
	require.Eventually(t, func() bool {
		client.ReloadState(t.Context())
		return redisstore.BatcherFor(s, "alice") != old
	}, patient, 10*time.Millisecond)
	found := redisstore.BatcherFor(s, "alice")
	for range 10 {
		var result [1]ports.TakeResult
		found.Do(t.Context(), []ports.TakeRequest{take("alice", 1, l)}, []int{0}, result[:])
		require.ErrorIs(t, result[0].Err, ports.ErrUnavailable)
	}
	assert.Zero(t, found.Stats("").Openings, "of the circuit breaker, which would start probes")
}

// The check also runs before the probes of a server that refused for want of permissions, so it must end.
func TestBorrowed_theCheckOfPermissionsEnds(t *testing.T) {
	c := redistest.StartCluster(t, 1, 0)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
	s := newStore(t, borrowing(t, client))
	require.NoError(t, s.CheckPermissions(t.Context())[0].Err)
	answers := make(chan struct{})
	defer close(answers)
	client.AddHook(silent{"eval", answers})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	checked := make(chan error, 1)
	go func() { checked <- s.CheckPermissions(ctx)[0].Err }()
	select {
	case err := <-checked:
		require.ErrorIs(t, err, ports.ErrUnavailable)
	case <-time.After(slack):
		t.Error("it waits for the client")
	}
}

// silent is a hook that has a command wait, whatever its context is.
type silent struct {
	command string
	until   chan struct{}
}

func (silent) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h silent) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == h.command {
			<-h.until
		}
		return next(ctx, cmd)
	}
}

func (silent) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
