//go:build faults

package faults

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/measure"
)

var (
	soakDuration = flag.Duration("soak.duration", 10*time.Minute, "how long the soak lasts")
	soakSeed     = flag.Uint64("soak.seed", 0, "seed of the soak's faults; 0 draws one and prints it")
	soakWorkers  = flag.Int("soak.workers", 128, "goroutines that send requests")
)

const (
	soakShards = 3
	// volatileShard has no persistence. tamperedShard has a proxy in front that changes replies.
	volatileShard, tamperedShard = 1, 2
	// checkInterval is the time between two checks of the records.
	checkInterval = 5 * time.Second
	// warmUp is the share of the soak before the first measurement of the heap. By then the caches are full.
	warmUp = 0.2
)

// TestSoak injects several random faults at once under a constant load, and checks all decisions.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with -soak.seed=%d -soak.duration=%v", seed, *soakDuration)
	before := countResources(t)
	f := startSoakFleet(t)
	l := startLoad(f, seed, &load{workers: *soakWorkers, clients: 64})
	t.Cleanup(l.end)
	s := newSoak(f, l, seed)
	s.run(t)
	s.finish(t, before)
	s.report.print(t)
	measure.Keep(t, "soak", s.report)
}

// startSoakFleet starts shards that support every fault of the soak.
func startSoakFleet(t *testing.T) *fleet {
	t.Helper()
	options := []redistest.Option{redistest.Args("--enable-debug-command", "local", "--busy-reply-threshold", "100",
		"--maxmemory-policy", "noeviction", "--replica-serve-stale-data", "no")}
	return startFleet(t, fleetConfig{
		shards: soakShards, options: options, proxiedShard: tamperedShard, proxied: true,
		optionsOf: func(shard int) []redistest.Option {
			if shard == volatileShard {
				return nil
			}
			return []redistest.Option{redistest.Args("--appendonly", "yes", "--appendfsync", "everysec")}
		},
	})
}

// soak is one run.
type soak struct {
	f       *fleet
	l       *load
	shards  []*chaosShard
	report  *soakReport
	heap    uint64 // after the warm-up
	started time.Time
}

func newSoak(f *fleet, l *load, seed uint64) *soak {
	s := &soak{f: f, l: l, started: time.Now(), report: &soakReport{Seed: seed, Kinds: map[string]int{}}}
	for i := range soakShards {
		s.shards = append(s.shards, newChaosShard(f, l, i, rand.New(rand.NewPCG(seed, uint64(1000+i)))))
	}
	return s
}

// run runs the load for the duration of the soak, and checks the records at each interval.
func (s *soak) run(t *testing.T) {
	t.Helper()
	end := make(chan struct{})
	done := make(chan bool)
	go func() { // a subtest for each shard, so that each may fail by itself
		done <- t.Run("chaos", func(t *testing.T) {
			for _, shard := range s.shards {
				t.Run(shard.name, func(t *testing.T) {
					t.Parallel()
					shard.run(t, end)
				})
			}
		})
	}()
	for last := time.Now(); time.Since(s.started) < *soakDuration && !t.Failed(); {
		time.Sleep(checkInterval)
		s.check(t)
		if s.heap == 0 && time.Since(s.started) > time.Duration(warmUp*float64(*soakDuration)) {
			s.l.whilePaused(func() { s.heap = heapInUse() })
		}
		if time.Since(last) > 30*time.Second {
			last = time.Now()
			s.progress(t)
		}
	}
	close(end)
	require.True(t, <-done, "injecting faults failed")
}

// check pauses the load and checks all records. For a shard without a fault for some time, no lost operation can still
// run, so its levels must match to the last token.
func (s *soak) check(t *testing.T) {
	t.Helper()
	s.l.whilePaused(func() {
		quiet := map[int]bool{}
		for i, shard := range s.shards {
			quiet[i] = shard.quiet() && s.f.redis.peek(t.Context(), i) == nil
		}
		s.report.Redis = s.f.redis.check(func(shard int) bool { return quiet[shard] }, s.loss)
		s.report.Local = s.f.local.check(noneInFlight, func(int) loss { return loss{} })
	})
	s.assertNoBreach(t)
}

// loss returns what a shard may have lost since the start.
func (s *soak) loss(shard int) loss { return loss{Times: int(s.shards[shard].losses.Load())} }

// assertNoBreach fails the test as soon as a check has found a breach.
func (s *soak) assertNoBreach(t *testing.T) {
	t.Helper()
	r := &s.report.Redis
	assert.LessOrEqual(t, r.ShareOfBound, 1.0, "beyond the bound of lost data: %+v", r.First)
	assert.Zero(t, r.BeyondBound, "over-admitted: %+v, %+v", r.First, r.Permits.First)
	assert.Zero(t, r.Permits.Breaches, "permits, while nothing was lost: %+v", r.Permits.First)
	assert.Zero(t, r.DoubleDebited, "debited twice: %+v", r.First)
	assert.Zero(t, r.FalseDenials, "false denials: %+v", r.First)
	assert.Empty(t, s.report.Local.First, "the local store keeps the invariants, too")
	assert.Empty(t, s.report.Local.Permits.First, "the local store keeps the invariants, too")
	if wrong := s.l.wrong.Load(); wrong != nil {
		assert.Fail(t, "a client got a wrong answer", *wrong)
	}
}

// finish stops the load and the fleet, and checks that nothing leaked.
func (s *soak) finish(t *testing.T, before resources) {
	t.Helper()
	for i := range s.shards {
		s.l.awaitRecovery(t, i)
	}
	time.Sleep(inFlightTime)
	s.check(t)
	var heap uint64
	s.l.whilePaused(func() { heap = heapInUse() })
	s.l.end()
	s.fillReport()
	s.report.HeapBefore, s.report.HeapAfter = s.heap, heap
	s.f.stop()
	after := countResources(t)
	for deadline := time.Now().Add(waitTimeout); after.exceeds(before) && time.Now().Before(deadline); after = countResources(t) {
		time.Sleep(50 * time.Millisecond)
	}
	s.report.Before, s.report.After = before, after
	assert.False(t, after.exceeds(before), "leaked: %+v, before: %+v\n%s", after, before, after.stacks)
	assert.LessOrEqual(t, heap, s.heap+max(s.heap/20, 256<<10), "the heap grew")
	if measure.Exact() {
		assert.LessOrEqual(t, s.report.SlowestRecovery, recoverTimeout)
	}
}

func (s *soak) progress(t *testing.T) {
	t.Helper()
	kinds := 0
	for _, shard := range s.shards {
		kinds += int(shard.injected.Load())
	}
	progressf("soak: %v, %d decisions, %d faults", time.Since(s.started).Round(time.Second), s.l.decisions.Load(), kinds)
}
