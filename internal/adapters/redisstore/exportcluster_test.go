package redisstore

import (
	"strconv"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/batch"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/cluster"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
)

// NewWithWrittenClock makes a store whose script has the time written into it: in a cluster a script may read keys of
// its own slot alone, so no key can hold the time for all. setNow must not be called while a batch is under way.
func NewWithWrittenClock(cfg Config, now domain.Instant) (s *Store, setNow func(domain.Instant), err error) {
	take := &script.Script{}
	setNow = func(now domain.Instant) {
		*take = *script.New(withClock("local now_us = " + strconv.FormatInt(int64(now), 10)))
	}
	setNow(now)
	s, err = newStore(cfg, take)
	return s, setNow, err
}

// ClusterBatchers is how many nodes of a cluster have a batcher.
func ClusterBatchers(s *Store) int { return s.manager.topology.(*cluster.Cluster).Batchers() }

// BatcherFor returns the batcher of a bucket key, as a call does that began before the store was closed.
func BatcherFor(s *Store, key string) *batch.Batcher { return s.manager.topology.BatcherFor(key) }
