//go:build faults

package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
)

// battered is a shard of the soak. Faults of its server follow each other, and so do those of its network; the two
// overlap, and with those of the other shards. Now and then it is left in peace, and must recover.
type battered struct {
	name  string
	shard int
	l     *load
	view  *fleet // that has this shard alone
	rnd   *rand.Rand

	server, network []fault
	begun           atomic.Int64
	losses          atomic.Int64 // how often its server forgot
	calmSince       atomic.Int64 // nanoseconds of the load's clock; 0: it is not calm
	kinds           map[string]int
	recoveries      []time.Duration
	last, slowest   []string // the kinds of the last storm, and of that with the slowest recovery
}

// settleTime is when nothing that was sent before can still run on a server that answers.
const settleTime = time.Second

func newBattered(f *fleet, l *load, shard int, rnd *rand.Rand) *battered {
	b := &battered{
		name: fmt.Sprintf("shard-%d", shard), shard: shard, l: l, rnd: rnd, kinds: map[string]int{},
		view: &fleet{servers: []*redistest.Server{f.servers[shard]}, links: []*link{f.links[shard]}},
	}
	b.server = slices.Concat(processFaults(), commandFaults(), refusalFaults(), keyFaults())
	b.network = networkFaults()
	if shard == scriptedShard {
		b.view.peer = f.peer
		b.network = append(b.network, peerFaults()...)
	}
	unbearable := func(x fault) bool { return !b.bears(x.kind) }
	b.server, b.network = slices.DeleteFunc(b.server, unbearable), slices.DeleteFunc(b.network, unbearable)
	return b
}

// notInSoak are kinds that need a server of their own, take too long, or, of the network, ask something of the server,
// which may be in no state to answer.
var notInSoak = []string{
	"loading", "killed, append-only file, always synced", "killed again and again", "stopped for moments", "eviction, allkeys-lru", "data cannot be saved",
	"certificate of a stranger", "FLUSHALL three times", "half of the connections hang",
}

func (b *battered) bears(kind string) bool {
	switch kind {
	case "killed, nothing kept":
		return b.shard == forgetfulShard
	case "killed, append-only file":
		return b.shard != forgetfulShard
	default:
		return !slices.Contains(notInSoak, kind)
	}
}

func (b *battered) calm() bool {
	since := b.calmSince.Load()
	return since != 0 && time.Since(b.l.began)-time.Duration(since) > settleTime
}

// batter breaks and mends until end is closed.
func (b *battered) batter(t *testing.T, end <-chan struct{}) {
	for {
		b.calmSince.Store(0)
		b.storm(t)
		b.calmSince.Store(int64(time.Since(b.l.began)))
		back := b.l.awaitRecovery(t, b.shard)
		if len(b.recoveries) == 0 || back > slices.Max(b.recoveries) {
			b.slowest = b.last
		}
		b.recoveries = append(b.recoveries, back)
		select {
		case <-end:
			return
		case <-time.After(2*settleTime + b.upTo(2*time.Second)):
		}
	}
}

func (b *battered) upTo(d time.Duration) time.Duration { return time.Duration(b.rnd.Int64N(int64(d))) }

// storm is a handful of faults, of which one of the server and one of the network may hold at once.
func (b *battered) storm(t *testing.T) {
	t.Helper()
	b.last = nil
	for range 1 + b.rnd.IntN(3) {
		var ends []func()
		switch b.rnd.IntN(4) {
		case 0:
			ends = append(ends, b.begin(t, b.network))
		case 1:
			ends = append(ends, b.begin(t, b.server), b.begin(t, b.network))
		case 2:
			ends = append(ends, b.begin(t, b.network), b.begin(t, b.server))
		default:
			ends = append(ends, b.begin(t, b.server))
		}
		for _, end := range ends {
			time.Sleep(200*time.Millisecond + b.upTo(1500*time.Millisecond))
			end()
		}
		if t.Failed() {
			return
		}
	}
}

// begin begins one of the faults and returns how it ends.
func (b *battered) begin(t *testing.T, of []fault) (end func()) {
	t.Helper()
	x := of[b.rnd.IntN(len(of))]
	b.kinds[x.kind]++
	b.last = append(b.last, x.kind)
	b.begun.Add(1)
	if x.forgets != nil {
		b.losses.Add(int64(x.forgets(t, b.view).Times)) // before it forgets
	}
	x.begin(t, b.view)
	return func() { x.end(t, b.view) }
}

// soakReport is what a soak ends with.
type soakReport struct {
	Seed uint64
	// Whole: it came to its end, and no client got a wrong answer.
	Whole     bool
	Seconds   float64
	Decisions int64
	ByRedis   int64
	Shortcut  int64
	Fallback  int64
	// Errs is the errors that a client saw, of refunds and charges; all other requests are answered.
	Errs            int64
	Kinds           map[string]int
	Faults          int
	Losses          int64
	Redis, Local    finding
	Recoveries      int
	SlowestRecovery time.Duration
	SlowestAfter    []string // the kinds of the storm before it
	HeapBefore      uint64
	HeapAfter       uint64
	Before, After   population
}

func (s *soak) fillReport() {
	r := s.report
	r.Whole = s.l.wrong.Load() == nil
	r.Seconds, r.Decisions, r.Errs = time.Since(s.started).Seconds(), s.l.decisions.Load(), s.l.errs.Load()
	for i, b := range s.shards {
		for kind, n := range b.kinds {
			r.Kinds[kind] += n
			r.Faults += n
		}
		r.Losses += b.losses.Load()
		r.Recoveries += len(b.recoveries)
		if len(b.recoveries) > 0 && slices.Max(b.recoveries) >= r.SlowestRecovery {
			r.SlowestRecovery, r.SlowestAfter = slices.Max(b.recoveries), b.slowest
		}
		counts := s.l.counts(i)
		r.ByRedis, r.Shortcut, r.Fallback = r.ByRedis+counts[0], r.Shortcut+counts[1], r.Fallback+counts[2]
	}
}

func (r *soakReport) print(t *testing.T) {
	t.Helper()
	var kinds []string
	for kind, n := range r.Kinds {
		kinds = append(kinds, fmt.Sprintf("  %4d %s", n, kind))
	}
	slices.Sort(kinds)
	progressf(`soak, seed %d, %.0f s
decisions          %d: %d by Redis, %d by the shortcut, %d by the failure policy
faults             %d of %d kinds, in which servers forgot %d times
%s
over-admitted      %d tokens beyond what the servers forgot; gained by forgetting %d, at most %.2f of its bound
double debits      %d tokens
unjust denials     %d by the store, %d repeated by the shortcut of what a server had forgotten since
errors clients saw %d, of refunds and charges, which have no failure policy
recovery           slowest %v, of %d, after: %s
goroutines         %d before, %d after
file descriptors   %d before, %d after
heap               %d KiB after the warm-up, %d KiB at the end`,
		r.Seed, r.Seconds, r.Decisions, r.ByRedis, r.Shortcut, r.Fallback, r.Faults, len(r.Kinds), r.Losses,
		strings.Join(kinds, "\n"), r.Redis.Beyond, r.Redis.Gained, r.Redis.Worst, r.Redis.Doubled, r.Redis.Unjust,
		r.Redis.UnjustRepeated, r.Errs, r.SlowestRecovery.Round(time.Millisecond), r.Recoveries, strings.Join(r.SlowestAfter, ", "),
		r.Before.Goroutines, r.After.Goroutines, r.Before.Files, r.After.Files, r.HeapBefore>>10, r.HeapAfter>>10)
	if *soakDuration >= 10*time.Minute {
		assert.GreaterOrEqual(t, r.Decisions, int64(10_000_000))
	}
}
