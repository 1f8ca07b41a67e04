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

var baselineDecisions = flag.Int64("baseline.decisions", 10_000_000, "decisions of the load without faults")

// baselineReport is the result of a load without faults.
type baselineReport struct {
	Decisions, Fallbacks int64
	Redis                findings
}

// TestBaseline runs a load without faults. No denial may be false, and no token may be extra or missing.
func TestBaseline(t *testing.T) {
	f := startFleet(t, fleetConfig{shards: 3, direct: true, adapt: longTimeout})
	l := startLoad(f, rand.Uint64(), &load{workers: 128, clients: 64})
	t.Cleanup(l.end)
	r := &baselineReport{}
	for last := time.Now(); r.Decisions < *baselineDecisions && !t.Failed(); {
		time.Sleep(checkInterval)
		l.whilePaused(func() {
			assert.NoError(t, f.redis.peek(t.Context(), anyShard))
			r.Redis = f.redis.check(noneInFlight, func(int) loss { return loss{} })
		})
		assert.Empty(t, r.Redis.First)
		assert.Empty(t, r.Redis.Permits.First)
		r.Decisions = l.decisions.Load()
		if time.Since(last) > 30*time.Second {
			last = time.Now()
			progressf("baseline: %d decisions", r.Decisions)
		}
	}
	l.end()
	for shard := range f.servers {
		r.Fallbacks += l.counts(shard)[2]
	}
	assert.Zero(t, r.Fallbacks)
	t.Logf("%d decisions, %d false denials", r.Decisions, r.Redis.FalseDenials+r.Redis.StaleDenials)
	measure.Keep(t, "baseline", r)
}
