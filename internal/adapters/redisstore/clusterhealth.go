package redisstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// clusterSlots is how many slots a Redis Cluster has.
const clusterSlots = 16384

var errNoSlots = errors.New("no node owns any slot")

// probes implements topology: one for each primary, in the order of their first slots, which a replica that takes
// over inherits. If no table can be read, the cluster as a whole does not answer.
func (c *cluster) probes(ctx context.Context) []probe {
	ranges, err := c.readTable(ctx)
	if err != nil {
		return []probe{{name: shardName(0), err: fmt.Errorf("%w: cluster, %s: %w", ports.ErrUnavailable, notRun, err)}}
	}
	var list []probe
	seen := make(map[string]bool)
	for _, r := range ranges {
		primary := r.Nodes[0].Addr
		if seen[primary] {
			continue
		}
		seen[primary] = true
		key := keyInSlots(r.Start, r.End)
		list = append(list, probe{name: shardName(len(list)), key: key, batcher: c.batcherFor(string(key))})
	}
	c.shards.Store(&list)
	return list
}

// stats implements topology. The shards are those of the last table that was read.
func (c *cluster) stats() []ports.ShardStats {
	list := c.shards.Load()
	if list == nil {
		return []ports.ShardStats{c.entry.stats(shardName(0))}
	}
	out := make([]ports.ShardStats, len(*list))
	for i, p := range *list {
		out[i] = p.batcher.stats(p.name)
	}
	return out
}

// readTable asks a node for the ranges of slots, in their order.
func (c *cluster) readTable(ctx context.Context) ([]redis.ClusterSlot, error) {
	ctx, cancel := context.WithTimeout(ctx, c.budget)
	defer cancel()
	if err := c.learn(ctx); err != nil {
		return nil, err
	}
	ranges, err := c.client.ClusterSlots(ctx).Result() //nolint:staticcheck // what go-redis itself asks for, so an ACL allows it
	if err != nil {
		return nil, err
	}
	ranges = slices.DeleteFunc(ranges, func(r redis.ClusterSlot) bool { return !hasSlots(r) })
	if len(ranges) == 0 {
		return nil, errNoSlots
	}
	slices.SortFunc(ranges, func(a, b redis.ClusterSlot) int { return cmp.Compare(a.Start, b.Start) })
	return ranges, nil
}

// hasSlots reports whether somebody owns a range, and whether it is one: a garbled answer may say anything.
func hasSlots(r redis.ClusterSlot) bool {
	return len(r.Nodes) > 0 && r.Start >= 0 && r.Start <= r.End && r.End < clusterSlots
}

// keyInSlots returns a probe's key of a slot from first to last, of which there must be one. No client's key looks like it: theirs hold a colon.
func keyInSlots(first, last int) domain.BucketKey {
	for i := 0; ; i++ {
		key := numberedProbeKey(i)
		if slot := slotOf(string(key)); slot >= first && slot <= last {
			return key
		}
	}
}

func numberedProbeKey(i int) domain.BucketKey { return probeKey + domain.BucketKey(strconv.Itoa(i)) }

// slotOf is the slot of the text between a key's braces: CRC-16/XMODEM, as the Redis Cluster specification says.
func slotOf(text string) int {
	var crc uint16
	for i := range len(text) {
		crc ^= uint16(text[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % clusterSlots
}
