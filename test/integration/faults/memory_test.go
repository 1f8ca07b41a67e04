//go:build faults

package faults

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/test/measure"
)

// TestRedisMemory measures the memory of a bucket with one limit in Redis, for a client key of twelve bytes.
func TestRedisMemory(t *testing.T) {
	const buckets, each = 100_000, 1000
	f := startFleet(t, fleetConfig{shards: 1, direct: true, adapt: longTimeout})
	limit := newLimit(t, "default", 10, 1, time.Hour)
	c := admin(t, f.servers[0])
	used := func() int {
		n, err := strconv.Atoi(infoOf(t, c, "memory", "used_memory"))
		require.NoError(t, err)
		return n
	}
	require.Eventually(t, func() bool {
		return ports.Take(t.Context(), f.store, ports.TakeRequest{Key: "default:ip=first", Limits: []domain.Limit{limit}, Cost: 1}).Err == nil
	}, waitTimeout, 10*time.Millisecond)
	before := used()
	reqs, results := make([]ports.TakeRequest, each), make([]ports.TakeResult, each)
	for done := 0; done < buckets; done += each {
		for i := range reqs {
			key := clientkey.NewBucketKey("default", clientkey.Source{}, fmt.Sprintf("client%06d", done+i))
			reqs[i] = ports.TakeRequest{Key: key, Limits: []domain.Limit{limit}, Cost: 1}
		}
		f.store.TakeMany(t.Context(), reqs, results)
		for i := range results {
			require.NoError(t, results[i].Err)
		}
	}
	bucket := (used() - before) / buckets
	t.Logf("%d bytes a bucket", bucket)
	measure.Keep(t, "redis-memory", map[string]int{"Bytes": bucket})
	assert.LessOrEqual(t, bucket, 256)
}
