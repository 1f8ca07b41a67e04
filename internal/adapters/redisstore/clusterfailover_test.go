package redisstore_test

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/cluster"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func plannedFailover(t *testing.T, c *redistest.Cluster) {
	s := newStore(t, clusterConfig(c.Addrs()...))
	l := limit(t, "burst", "1/h", 10)
	old := primaries(t, c)[0]
	name := clientAt(c, old, "planned-", 0)
	var failovers atomic.Int64
	s.Manager().OnFailover(func() { failovers.Add(1) })
	require.Len(t, s.CheckHealth(t.Context()), 3)
	assert.Equal(t, domain.Tokens(9), l.Remaining(takeOne(t, s, name, 1, l).States[0]))
	require.Eventually(t, func() bool { return redisstore.ClusterBatchers(s) == 3 }, patient, time.Millisecond)
	require.Zero(t, failovers.Load())

	next := c.Failover(old)
	require.Zero(t, sum(t, c, "eval", next), "scripts are not replicated")
	assert.Equal(t, domain.Tokens(8), l.Remaining(takeOne(t, s, name, 1, l).States[0]), "redirected by the old primary")
	assert.Equal(t, 1, sum(t, c, "eval", next))
	require.Eventually(t, func() bool {
		takeOne(t, s, name, 0, l)
		return failovers.Load() == 1 && redisstore.ClusterBatchers(s) == 3
	}, 5*time.Second, 10*time.Millisecond, "the failover is reported, and the old primary's batcher vanishes")
	assert.Equal(t, next.Addr, s.Manager().GetClient(string(key(name))).Options().Addr)
}

// recoverTimeout bounds how long after a failover the store decides again, with an allowance for a busy machine.
const recoverTimeout = 2*time.Second + slack

func primaryDies(t *testing.T, c *redistest.Cluster) {
	s := newStore(t, clusterConfig(c.Addrs()...))
	l := limit(t, "burst", "1/h", 10)
	old := primaries(t, c)[1]
	replica := c.Replica(old)
	name := clientAt(c, old, "dies-", 0)
	var failovers atomic.Int64
	s.Manager().OnFailover(func() { failovers.Add(1) })
	takeOne(t, s, name, 1, l)
	awaitReplica(t, c.Client(replica), level(t, c.Client(old), name, "burst"), name)
	w := watch(s)

	old.Kill()
	for len(w.so()) == 0 {
		require.ErrorIs(t, ports.Take(t.Context(), s, take(name, 1, l)).Err, ports.ErrUnavailable)
	}
	c.AwaitPrimary(replica)
	promoted := time.Now()
	require.Eventually(t, func() bool { return ports.Take(t.Context(), s, take(name, 1, l)).Err == nil }, patient, 5*time.Millisecond)
	assert.Less(t, time.Since(promoted), recoverTimeout)
	assert.Equal(t, domain.Tokens(8), l.Remaining(takePeek(t, s, name, l).States[0]), "no take that failed was carried out")
	require.Eventually(t, func() bool { return failovers.Load() == 1 }, patient, time.Millisecond)
	require.Eventually(t, func() bool { return len(w.so()) == 2 }, patient, time.Millisecond)
	assert.True(t, w.so()[0].Open, "the dead node's breaker opened")
	assert.False(t, w.so()[1].Open, "and the outage ended when the replica took over")
	old.Restart()
}

func deadPrimaryIsAlone(t *testing.T, c *redistest.Cluster) {
	l := limit(t, "burst", "1/h", 10)
	living, dead := primaries(t, c)[0], primaries(t, c)[2]
	replica := c.Replica(dead)
	for name, end := range map[string][2]func(*redistest.Server){
		"frozen": {(*redistest.Server).Pause, (*redistest.Server).Resume},
		"killed": {(*redistest.Server).Kill, (*redistest.Server).Restart},
	} {
		cfg := clusterConfig(c.Addrs()...)
		cfg.TakeTimeout, cfg.DialTimeout = time.Second, time.Second
		s := newStore(t, cfg)
		var reqs []ports.TakeRequest
		var lost []bool
		for i := range 30 {
			client := fmt.Sprintf("%s-%d", name, i)
			reqs, lost = append(reqs, take(client, 1, l)), append(lost, c.Owner(cluster.Slot(string(key(client)))) == dead)
		}
		results := make([]ports.TakeResult, len(reqs))
		s.TakeMany(t.Context(), reqs, results)
		for _, r := range results {
			require.NoError(t, r.Err)
		}
		require.Eventually(t, func() bool { return len(s.Stats()) == 3 }, patient, time.Millisecond, "the table of slots is read")
		end[0](replica) // first, or it would take over
		end[0](dead)
		for round := range 3 {
			var wg sync.WaitGroup
			for i := range reqs {
				wg.Go(func() {
					start := time.Now()
					r := ports.Take(t.Context(), s, reqs[i])
					if lost[i] {
						assert.ErrorIs(t, r.Err, ports.ErrUnavailable, "%s: %d", name, i)
						return
					}
					assert.NoError(t, r.Err, "%s: %d", name, i)
					assert.Less(t, time.Since(start), cfg.TakeTimeout, "%s, round %d: it waited for no other server", name, round)
				})
			}
			wg.Wait()
		}
		s.TakeMany(t.Context(), reqs, results)
		for i, r := range results {
			assert.Equal(t, lost[i], r.Err != nil, "%s, in one call: %d: %v", name, i, r.Err)
		}
		require.Eventually(t, func() bool {
			s.TakeMany(t.Context(), reqs, results)
			return s.Stats()[2].Breaker != ports.BreakerClosed
		}, patient, time.Microsecond)
		for i, shard := range s.Stats() {
			assert.Equal(t, "shard-"+strconv.Itoa(i), shard.Name)
			assert.Equal(t, i != 2, shard.Up, "%s: %s: the breaker is the dead node's own", name, shard.Name)
			assert.Equal(t, i != 2, shard.Openings == 0, "%s: %s", name, shard.Name)
		}
		cfg.Addrs = []string{living.Addr}
		// One that knows no nodes yet sends all groups in one batch.
		newStore(t, cfg).TakeMany(t.Context(), reqs, results)
		for i, r := range results {
			assert.Equal(t, lost[i], r.Err != nil, "%s, in one batch: %d: %v", name, i, r.Err)
		}
		assert.Contains(t, lost, true)
		end[1](dead)
		end[1](replica)
		c.AwaitWhole()
		require.Eventually(t, func() bool {
			health := s.CheckHealth(t.Context())
			return len(health) == 3 && health[0].Err == nil && health[1].Err == nil && health[2].Err == nil
		}, patient, 5*time.Millisecond)
	}
}
