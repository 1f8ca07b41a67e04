//go:build faults

package faults

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/test/measure"
)

var calmDecisions = flag.Int64("calm.decisions", 10_000_000, "decisions of the load without faults")

// calmReport is what a load without faults ends with.
type calmReport struct {
	Decisions, Fallbacks int64
	Redis                finding
}

// TestCalm has nothing fail: not a single denial may be unjust, not a single token too many or too few.
func TestCalm(t *testing.T) {
	f := startFleet(t, fleetConfig{shards: 3, direct: true, adapt: patient})
	l := startLoad(f, rand.Uint64(), &load{workers: 128, clients: 64})
	t.Cleanup(l.end)
	r := &calmReport{}
	for last := time.Now(); r.Decisions < *calmDecisions && !t.Failed(); {
		time.Sleep(leg)
		l.hold(func() {
			assert.NoError(t, f.redis.peek(t.Context(), anyShard))
			r.Redis = f.redis.judge(allSettled, func(int) loss { return loss{} })
		})
		assert.Empty(t, r.Redis.First)
		r.Decisions = l.decisions.Load()
		if time.Since(last) > 30*time.Second {
			last = time.Now()
			progressf("calm: %d decisions", r.Decisions)
		}
	}
	l.end()
	for shard := range f.servers {
		r.Fallbacks += l.counts(shard)[2]
	}
	assert.Zero(t, r.Fallbacks)
	t.Logf("%d decisions, %d unjust denials", r.Decisions, r.Redis.Unjust+r.Redis.UnjustRepeated)
	measure.Keep(t, "calm", r)
}
