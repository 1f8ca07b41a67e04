package redisstore_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/batch"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// outage keeps a server from deciding, and ends that again.
type outage struct {
	begin, end func(t *testing.T, s *redistest.Server, c *redis.Client)
	// pings: the server answers PING during the outage.
	pings bool
}

func command(args ...any) func(*testing.T, *redistest.Server, *redis.Client) {
	return func(t *testing.T, _ *redistest.Server, c *redis.Client) {
		require.NoError(t, c.Do(t.Context(), args...).Err())
	}
}

var outages = map[string]outage{
	"killed": {
		begin: func(_ *testing.T, s *redistest.Server, _ *redis.Client) { s.Kill() },
		end:   func(_ *testing.T, s *redistest.Server, _ *redis.Client) { s.Restart() },
	},
	"frozen": {
		begin: func(_ *testing.T, s *redistest.Server, _ *redis.Client) { s.Pause() },
		end:   func(_ *testing.T, s *redistest.Server, _ *redis.Client) { s.Resume() },
	},
	"paused for writes": {command("client", "pause", patient.Milliseconds(), "write"), command("client", "unpause"), true},
	"read-only":         {command("replicaof", "127.0.0.1", "1"), command("replicaof", "no", "one"), true},
	"full":              {command("config", "set", "maxmemory", "1"), command("config", "set", "maxmemory", "0"), true},
}

// watched collects the changes of a store's breakers.
type watched struct {
	mu      sync.Mutex
	changes []batch.BreakerChange
}

func watch(s *redisstore.Store) *watched {
	w := &watched{}
	s.Manager().OnBreaker(func(c batch.BreakerChange) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changes = append(w.changes, c)
	})
	return w
}

func (w *watched) so() []batch.BreakerChange {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.changes)
}

func TestOutage_opensTheBreakerAndProbesEndIt(t *testing.T) {
	l := limit(t, "burst", "1/h", 1000)
	for name, o := range outages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			c := plainClient(t, server.Addr)
			cfg := redisstore.DefaultConfig(server.Addr)
			cfg.TakeTimeout = 200 * time.Millisecond
			s := newStore(t, cfg)
			require.Eventually(t, func() bool { return s.CheckHealth(t.Context())[0].Err == nil }, patient, time.Millisecond)
			w := watch(s)

			o.begin(t, server, c)
			calls := 0
			require.Eventually(t, func() bool {
				calls++
				return ports.Take(t.Context(), s, take("a", 1, l)).Err != nil && s.Stats()[0].Breaker != ports.BreakerClosed
			}, patient, time.Microsecond)
			assert.LessOrEqual(t, calls, 20, "five in a row, after what a busy machine let pass")
			before := s.Stats()[0]
			for range 1000 {
				r := ports.Take(t.Context(), s, take("a", 1, l))
				require.ErrorIs(t, r.Err, ports.ErrUnavailable)
				require.ErrorContains(t, r.Err, "not carried out")
			}
			time.Sleep(300 * time.Millisecond) // a probe or two
			stats := s.Stats()[0]
			assert.NotEqual(t, ports.BreakerClosed, stats.Breaker)
			assert.False(t, stats.Up)
			assert.Equal(t, before.Refused+1000, stats.Refused)
			assert.Equal(t, before.Batches, stats.Batches, "nothing was sent")
			if o.pings {
				assert.NoError(t, c.Ping(t.Context()).Err(), "PING would not have noticed the outage")
			}
			require.ErrorIs(t, s.CheckHealth(t.Context())[0].Err, ports.ErrUnavailable)

			o.end(t, server, c)
			require.Eventually(t, func() bool { return ports.Take(t.Context(), s, take("a", 1, l)).Err == nil },
				patient, 5*time.Millisecond)
			require.Eventually(t, func() bool { return len(w.so()) == 2 }, patient, time.Millisecond)
			changes := w.so()
			assert.Equal(t, "shard-0", changes[0].Shard)
			assert.True(t, changes[0].Open)
			assert.ErrorIs(t, changes[0].Cause, ports.ErrUnavailable)
			assert.NotZero(t, s.Stats()[0].Failures[string(changes[0].Kind)])
			assert.False(t, changes[1].Open)
			assert.Positive(t, changes[1].Outage)
			assert.Equal(t, uint64(1), s.Stats()[0].Openings)
		})
	}
}

// Once a pool of go-redis has failed to connect as often as its size, it tries only once a second. See conn.
func TestOutage_aShardThatIsBackIsConnectedToAtOnce(t *testing.T) {
	for name, opts := range map[string][]redistest.Option{
		"plain":    nil,
		"password": {redistest.Args("--requirepass", password)},
	} {
		server := redistest.Start(t, opts...)
		cfg := config(server.Addr)
		if opts != nil {
			cfg.Password = password
		}
		c := newStore(t, cfg).Manager().GetClient("anyone")
		require.NoError(t, c.Ping(t.Context()).Err(), name)
		for range 2 {
			server.Kill()
			for range 2 * cfg.PoolSize {
				err := c.Ping(t.Context()).Err()
				require.ErrorContains(t, err, "refused", name)
				require.ErrorIs(t, failure.Classify(err).Effect, ports.ErrNotRun, name)
			}
			server.Restart()
			require.NoError(t, c.Ping(t.Context()).Err(), name)
		}
	}
}

// An attempt to connect goes on when the call that caused it has given up. It must not fail a later one.
func TestOutage_anAttemptToConnectThatFailedLateIsForgotten(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	cfg := config(server.Addr)
	cfg.PoolSize = 1
	s := newStore(t, cfg)
	c := s.Manager().GetClient("anyone")
	redisstore.LeaveDeadConnection(t, c)
	server.Restart()
	require.NoError(t, c.Ping(t.Context()).Err())
}

func TestOutage_closingTheStoreEndsTheProbes(t *testing.T) {
	server := redistest.Start(t)
	cfg := config(server.Addr) // a probe of a frozen server waits for long
	s := newStore(t, cfg)
	w := watch(s)
	server.Kill()
	require.Eventually(t, func() bool {
		_ = ports.Take(t.Context(), s, take("a", 1, limit(t, "burst", "1/h", 10)))
		return s.Stats()[0].Breaker != ports.BreakerClosed
	}, patient, time.Microsecond)
	server.Restart()
	server.Pause()
	time.Sleep(200 * time.Millisecond) // the first probe is under way
	start := time.Now()
	require.NoError(t, s.Close())
	assert.Less(t, time.Since(start), patient/2)
	assert.Len(t, w.so(), 1, "no event says that the shard is back")
}

func TestStats_namesTheShardsInTheirOrder(t *testing.T) {
	_, addrs := redistest.StartN(t, 3)
	s := newStore(t, config(addrs...))
	for _, h := range s.CheckHealth(t.Context()) {
		require.NoError(t, h.Err)
	}
	stats := s.Stats()
	require.Len(t, stats, 3)
	for i, shard := range stats {
		assert.Equal(t, s.Manager().Shards()[i].Name, shard.Name)
		assert.True(t, shard.Up)
		assert.Equal(t, uint64(1), shard.Batches)
		assert.Equal(t, uint64(2), shard.Groups)
		assert.Zero(t, shard.ClockSkew, "they share our clock")
	}
}
