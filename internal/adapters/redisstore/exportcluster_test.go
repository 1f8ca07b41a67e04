package redisstore

import (
	"context"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// NewWithWrittenClock makes a store whose script has the time written into it: in a cluster a script may read keys of
// its own slot alone, so no key can hold the time for all. setNow must not be called while a batch is under way.
func NewWithWrittenClock(cfg Config, now domain.Instant) (s *Store, setNow func(domain.Instant), err error) {
	script := &script{}
	setNow = func(now domain.Instant) {
		*script = *newScript(withClock("local now_us = " + strconv.FormatInt(int64(now), 10)))
	}
	setNow(now)
	s, err = newStore(cfg, script)
	return s, setNow, err
}

// SlotOf is the slot of a key, by its text between the braces.
func SlotOf(key domain.BucketKey) int { return slotOf(string(key)) }

// HasSlots reports whether a range of the table of slots, with so many nodes, can be used.
func HasSlots(first, last, nodes int) bool {
	return hasSlots(redis.ClusterSlot{Start: first, End: last, Nodes: make([]redis.ClusterNode, nodes)})
}

// ClusterBatchers is how many nodes of a cluster have a batcher.
func ClusterBatchers(s *Store) int {
	n := 0
	s.manager.cluster.batchers.Range(func(any, any) bool {
		n++
		return true
	})
	return n
}

// OnceCmd is a command of a cluster's pipeline, and how its outcome is read.
func OnceCmd(ctx context.Context, args ...any) (cmd redis.Cmder, outcome func() (any, error)) {
	c := &onceCmd{Cmd: redis.NewCmd(ctx, args...)}
	return c, c.outcome
}
