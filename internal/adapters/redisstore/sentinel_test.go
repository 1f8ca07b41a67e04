package redisstore_test

import (
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/ports/porttest"
)

func sentinelConfig(addrs ...string) redisstore.Config {
	cfg := config(addrs...)
	cfg.Topology, cfg.SentinelMaster = redisstore.TopologySentinel, redistest.SentinelMaster
	return cfg
}

// TestSentinel is one test because the sentinels take seconds to start. Each part leaves a primary with a replica.
func TestSentinel(t *testing.T) {
	s := redistest.StartSentinel(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *redistest.Sentinels)
	}{
		{"contract", sentinelContract},
		{"closing ends every goroutine", sentinelCloses},
		{"a replica takes over from a primary that lives", sentinelPlannedFailover},
		{"a replica takes over from a primary that died, and a sentinel with it", sentinelPrimaryDies},
		{"overrides", sentinelOverrides},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.run(t, s)
			s.AwaitWhole()
		})
		if t.Failed() {
			return
		}
	}
}

func sentinelContract(t *testing.T, sentinels *redistest.Sentinels) {
	porttest.TestBucketStore(t, porttest.Harness{
		Spare: spare,
		New: func(t *testing.T) porttest.Fixture {
			c := sentinels.Client(sentinels.Primary())
			now := domain.InstantOf(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC))
			require.NoError(t, c.FlushAll(t.Context()).Err())
			setClock(t, c, now)
			s, err := redisstore.NewWithClockKey(sentinelConfig(sentinels.Addrs()...))
			require.NoError(t, err)
			t.Cleanup(func() { _ = s.Close() })
			return porttest.Fixture{
				Store:   s,
				Foreign: foreign(t, s),
				Advance: func(d time.Duration) {
					now = now.Add(d)
					setClock(t, c, now)
				},
				Holds: func(k clientkey.BucketKey) bool {
					at, err := s.Manager().GetClient(string(k)).PExpireTime(t.Context(), script.RedisKey(k)).Result()
					require.NoError(t, err)
					return at > 0 && domain.Instant(at.Microseconds()) >= now
				},
			}
		},
		Unreachable: func(t *testing.T) (ports.BucketStore, time.Duration) {
			frozen, addrs := redistest.StartN(t, 3)
			for _, server := range frozen {
				server.Pause()
			}
			cfg := redisstore.DefaultConfig(addrs...)
			cfg.Topology, cfg.SentinelMaster = redisstore.TopologySentinel, redistest.SentinelMaster
			return newStore(t, cfg), cfg.TakeTimeout
		},
	})
}

func sentinelCloses(t *testing.T, sentinels *redistest.Sentinels) {
	closesWhileAsking(t, sentinelConfig(sentinels.Addrs()...), "a", "b")
	frozen := sentinels.Watchers[0]
	frozen.Pause()
	defer frozen.Resume()
	closesWhileAsking(t, sentinelConfig(frozen.Addr), "a", "b")
}

func sentinelPlannedFailover(t *testing.T, sentinels *redistest.Sentinels) {
	s := newStore(t, sentinelConfig(sentinels.Addrs()[:1]...))
	l := limit(t, "burst", "1/h", 10)
	var failovers atomic.Int64
	s.Manager().OnFailover(func() { failovers.Add(1) })
	old := sentinels.Primary()
	for i := range 3 { // a second connection to the same primary is no failover
		assert.Equal(t, domain.Tokens(9-i), l.Remaining(takeOne(t, s, "planned", 1, l).States[0]))
		require.NoError(t, sentinels.Client(old).ClientKillByFilter(t.Context(), "TYPE", "normal").Err())
		require.Eventually(t, func() bool { return s.CheckHealth(t.Context())[0].Err == nil }, patient, time.Millisecond)
	}
	require.Zero(t, failovers.Load())
	awaitReplica(t, sentinels.Client(sentinels.Other(old)), level(t, sentinels.Client(old), "planned", "burst"), "planned")

	next := sentinels.Failover()
	named := time.Now()
	before := calls(t, sentinels.Client(next), "eval")
	require.Eventually(t, func() bool {
		r := ports.Take(t.Context(), s, take("planned", 11, l)) // which is denied, so that it counts for nothing
		return r.Err == nil && failovers.Load() > 0
	}, patient, time.Millisecond)
	assert.Less(t, time.Since(named), recoverTimeout)
	assert.Equal(t, int64(1), failovers.Load())
	assert.Equal(t, domain.Tokens(6), l.Remaining(takeOne(t, s, "planned", 1, l).States[0]))
	once, err := strconv.Atoi(before)
	require.NoError(t, err)
	assert.Equal(t, strconv.Itoa(once+1), calls(t, sentinels.Client(next), "eval"), "scripts are not replicated")
}

func sentinelPrimaryDies(t *testing.T, sentinels *redistest.Sentinels) {
	s := newStore(t, sentinelConfig(sentinels.Addrs()...))
	l := limit(t, "burst", "1/h", 10)
	var failovers atomic.Int64
	s.Manager().OnFailover(func() { failovers.Add(1) })
	old := sentinels.Primary()
	takeOne(t, s, "dies", 1, l)
	awaitReplica(t, sentinels.Client(sentinels.Other(old)), level(t, sentinels.Client(old), "dies", "burst"), "dies")

	sentinels.Watchers[0].Kill()
	old.Kill()
	require.ErrorIs(t, ports.Take(t.Context(), s, take("dies", 1, l)).Err, ports.ErrUnavailable)
	sentinels.AwaitPrimary(sentinels.Other(old))
	named := time.Now()
	require.Eventually(t, func() bool { return ports.Take(t.Context(), s, take("dies", 1, l)).Err == nil }, patient, 5*time.Millisecond)
	assert.Less(t, time.Since(named), recoverTimeout)
	assert.Equal(t, domain.Tokens(8), l.Remaining(takePeek(t, s, "dies", l).States[0]), "no take that failed was carried out")
	assert.Equal(t, int64(1), failovers.Load())
	sentinels.Watchers[0].Restart()
	old.Restart()
}

func TestSentinel_settingsOfTheConnections(t *testing.T) {
	cfg := redisstore.DefaultConfig("127.0.0.1:1", "127.0.0.1:2")
	cfg.Topology, cfg.SentinelMaster = redisstore.TopologySentinel, "main"
	s := newStore(t, cfg)
	o := s.Manager().GetClient("anyone").Options()
	assertSettings(t, o)
	assert.Equal(t, []redisstore.Shard{{Name: "shard-0", Identity: "main", Addr: "127.0.0.1:1,127.0.0.1:2"}}, s.Manager().Shards())
}
