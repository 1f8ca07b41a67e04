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
	soakWorkers  = flag.Int("soak.workers", 128, "goroutines that ask")
)

const (
	soakShards = 3
	// scriptedShard has a scripted peer before it, forgetfulShard keeps nothing when it is killed.
	forgetfulShard, scriptedShard = 1, 2
	// leg is how long the load runs between two looks of the judge.
	leg = 5 * time.Second
	// warmUp is the part of the soak after which the heap is looked at first: each path has been taken, and caches filled.
	warmUp = 0.2
)

// TestSoak breaks several things at once, at random, under a load that does not end, and judges all that was decided.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat with -soak.seed=%d -soak.duration=%v", seed, *soakDuration)
	before := census(t)
	f := startSoakFleet(t)
	l := startLoad(f, seed, &load{workers: *soakWorkers, clients: 64})
	t.Cleanup(l.end)
	s := newSoak(f, l, seed)
	s.run(t)
	s.conclude(t, before)
	s.report.print(t)
	measure.Keep(t, "soak", s.report)
}

// startSoakFleet starts shards on which every fault of [soakFaults] works.
func startSoakFleet(t *testing.T) *fleet {
	t.Helper()
	options := []redistest.Option{redistest.Args("--enable-debug-command", "local", "--busy-reply-threshold", "100",
		"--maxmemory-policy", "noeviction", "--replica-serve-stale-data", "no")}
	return startFleet(t, fleetConfig{
		shards: soakShards, options: options, scriptedAt: scriptedShard, scripted: true,
		optionsOf: func(shard int) []redistest.Option {
			if shard == forgetfulShard {
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
	shards  []*battered
	report  *soakReport
	heap    uint64 // after the warm-up
	started time.Time
}

func newSoak(f *fleet, l *load, seed uint64) *soak {
	s := &soak{f: f, l: l, started: time.Now(), report: &soakReport{Seed: seed, Kinds: map[string]int{}}}
	for i := range soakShards {
		s.shards = append(s.shards, newBattered(f, l, i, rand.New(rand.NewPCG(seed, uint64(1000+i)))))
	}
	return s
}

// run lets the load go on for the time of the soak, and judges what was decided in each leg.
func (s *soak) run(t *testing.T) {
	t.Helper()
	end := make(chan struct{})
	done := make(chan bool)
	go func() { // subtests, so that each nemesis may fail by itself
		done <- t.Run("nemesis", func(t *testing.T) {
			for _, shard := range s.shards {
				t.Run(shard.name, func(t *testing.T) {
					t.Parallel()
					shard.batter(t, end)
				})
			}
		})
	}()
	for last := time.Now(); time.Since(s.started) < *soakDuration && !t.Failed(); {
		time.Sleep(leg)
		s.judge(t)
		if s.heap == 0 && time.Since(s.started) > time.Duration(warmUp*float64(*soakDuration)) {
			s.l.hold(func() { s.heap = heapInUse() })
		}
		if time.Since(last) > 30*time.Second {
			last = time.Now()
			s.progress(t)
		}
	}
	close(end)
	require.True(t, <-done, "a nemesis failed")
}

// judge holds the load for a moment and plays what it was answered. Of shards that have been calm for a while, nothing
// that was lost can still run: what they hold is compared to the last token.
func (s *soak) judge(t *testing.T) {
	t.Helper()
	s.l.hold(func() {
		calm := map[int]bool{}
		for i, shard := range s.shards {
			calm[i] = shard.calm() && s.f.redis.peek(t.Context(), i) == nil
		}
		s.report.Redis = s.f.redis.judge(func(shard int) bool { return calm[shard] }, s.loss)
		s.report.Local = s.f.local.judge(func(int) bool { return true }, func(int) loss { return loss{} })
	})
	s.check(t)
}

// loss is what a shard may have lost since the beginning.
func (s *soak) loss(shard int) loss { return loss{Times: int(s.shards[shard].losses.Load())} }

// check says what must never be, while it is fresh.
func (s *soak) check(t *testing.T) {
	t.Helper()
	r := &s.report.Redis
	assert.LessOrEqual(t, r.Worst, 1.0, "beyond what may be lost: %+v", r.First)
	assert.Zero(t, r.Beyond, "over-admitted: %+v", r.First)
	assert.Zero(t, r.Doubled, "debited twice: %+v", r.First)
	assert.Zero(t, r.Unjust, "denied without need: %+v", r.First)
	assert.Empty(t, s.report.Local.First, "the local store keeps the law, too")
	if wrong := s.l.wrong.Load(); wrong != nil {
		assert.Fail(t, "a client got a wrong answer", *wrong)
	}
}

// conclude ends the load and everything else, and looks at what is left.
func (s *soak) conclude(t *testing.T, before population) {
	t.Helper()
	for i := range s.shards {
		s.l.awaitRecovery(t, i)
	}
	time.Sleep(settleTime)
	s.judge(t)
	var heap uint64
	s.l.hold(func() { heap = heapInUse() })
	s.l.end()
	s.fillReport()
	s.report.HeapBefore, s.report.HeapAfter = s.heap, heap
	s.f.stop()
	after := census(t)
	for deadline := time.Now().Add(patience); after.exceeds(before) && time.Now().Before(deadline); after = census(t) {
		time.Sleep(50 * time.Millisecond)
	}
	s.report.Before, s.report.After = before, after
	assert.False(t, after.exceeds(before), "left behind: %+v, before: %+v\n%s", after, before, after.stacks)
	assert.LessOrEqual(t, heap, s.heap+max(s.heap/20, 256<<10), "the heap grew")
	if measure.Exact() {
		assert.LessOrEqual(t, s.report.SlowestRecovery, recoverTimeout)
	}
}

func (s *soak) progress(t *testing.T) {
	t.Helper()
	kinds := 0
	for _, shard := range s.shards {
		kinds += int(shard.begun.Load())
	}
	progressf("soak: %v, %d decisions, %d faults", time.Since(s.started).Round(time.Second), s.l.decisions.Load(), kinds)
}
