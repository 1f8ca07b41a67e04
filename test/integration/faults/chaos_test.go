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

// chaosShard injects random faults into one shard of the soak. A fault of its server and a fault of its network may
// overlap, with each other and with faults of the other shards. Between groups of faults the shard must recover.
type chaosShard struct {
	name  string
	shard int
	l     *load
	view  *fleet // contains this shard only
	rnd   *rand.Rand

	server, network []fault
	injected        atomic.Int64
	losses          atomic.Int64 // how often its server may have lost its data
	quietSince      atomic.Int64 // end of the last fault, in nanoseconds since the start of the load; 0: a fault is active
	kinds           map[string]int
	recoveries      []time.Duration
	last, slowest   []string // the kinds of the last group of faults, and of the group with the slowest recovery
}

// inFlightTime is the time after which no lost operation can still run on a server that answers.
const inFlightTime = time.Second

func newChaosShard(f *fleet, l *load, shard int, rnd *rand.Rand) *chaosShard {
	c := &chaosShard{
		name: fmt.Sprintf("shard-%d", shard), shard: shard, l: l, rnd: rnd, kinds: map[string]int{},
		view: &fleet{servers: []*redistest.Server{f.servers[shard]}, links: []*link{f.links[shard]}},
	}
	c.server = slices.Concat(processFaults(), commandFaults(), refusalFaults(), keyFaults())
	c.network = networkFaults()
	if shard == tamperedShard {
		c.view.proxy = f.proxy
		c.network = append(c.network, proxyFaults()...)
	}
	unsupported := func(x fault) bool { return !c.supports(x.kind) }
	c.server, c.network = slices.DeleteFunc(c.server, unsupported), slices.DeleteFunc(c.network, unsupported)
	return c
}

// excludedFromSoak are kinds that need a server of their own, take too long, or are faults of the network that send
// commands to a server, which may be unable to answer.
var excludedFromSoak = []string{
	"loading", "killed, append-only file, always synced", "killed repeatedly", "stopped briefly", "eviction, allkeys-lru", "data cannot be saved",
	"untrusted certificate", "FLUSHALL three times", "half of the connections hang",
}

func (c *chaosShard) supports(kind string) bool {
	switch kind {
	case "killed, no persistence":
		return c.shard == volatileShard
	case "killed, append-only file":
		return c.shard != volatileShard
	default:
		return !slices.Contains(excludedFromSoak, kind)
	}
}

func (c *chaosShard) quiet() bool {
	since := c.quietSince.Load()
	return since != 0 && time.Since(c.l.began)-time.Duration(since) > inFlightTime
}

// run injects groups of faults and waits for recovery, until end is closed.
func (c *chaosShard) run(t *testing.T, end <-chan struct{}) {
	for {
		c.quietSince.Store(0)
		c.injectFaults(t)
		c.quietSince.Store(int64(time.Since(c.l.began)))
		back := c.l.awaitRecovery(t, c.shard)
		if len(c.recoveries) == 0 || back > slices.Max(c.recoveries) {
			c.slowest = c.last
		}
		c.recoveries = append(c.recoveries, back)
		select {
		case <-end:
			return
		case <-time.After(2*inFlightTime + c.randomUpTo(2*time.Second)):
		}
	}
}

func (c *chaosShard) randomUpTo(d time.Duration) time.Duration {
	return time.Duration(c.rnd.Int64N(int64(d)))
}

// injectFaults injects one to three faults, or pairs of a server fault and a network fault.
func (c *chaosShard) injectFaults(t *testing.T) {
	t.Helper()
	c.last = nil
	for range 1 + c.rnd.IntN(3) {
		var ends []func()
		switch c.rnd.IntN(4) {
		case 0:
			ends = append(ends, c.begin(t, c.network))
		case 1:
			ends = append(ends, c.begin(t, c.server), c.begin(t, c.network))
		case 2:
			ends = append(ends, c.begin(t, c.network), c.begin(t, c.server))
		default:
			ends = append(ends, c.begin(t, c.server))
		}
		for _, end := range ends {
			time.Sleep(200*time.Millisecond + c.randomUpTo(1500*time.Millisecond))
			end()
		}
		if t.Failed() {
			return
		}
	}
}

// begin begins a random fault and returns the function that ends it.
func (c *chaosShard) begin(t *testing.T, of []fault) (end func()) {
	t.Helper()
	x := of[c.rnd.IntN(len(of))]
	c.kinds[x.kind]++
	c.last = append(c.last, x.kind)
	c.injected.Add(1)
	if x.dataLoss != nil {
		c.losses.Add(int64(x.dataLoss(t, c.view).Times)) // before the server loses its data
	}
	x.begin(t, c.view)
	return func() { x.end(t, c.view) }
}

// soakReport is the result of a soak.
type soakReport struct {
	Seed uint64
	// Completed means that the soak reached its end and no client got a wrong answer.
	Completed bool
	Seconds   float64
	Decisions int64
	ByRedis   int64
	Cached    int64
	Fallback  int64
	// Errs counts the errors that clients saw for refunds, charges, releases and renewals. All other requests were answered.
	Errs            int64
	Kinds           map[string]int
	Faults          int
	Losses          int64
	Redis, Local    findings
	Recoveries      int
	SlowestRecovery time.Duration
	SlowestAfter    []string // the faults before it
	HeapBefore      uint64
	HeapAfter       uint64
	Before, After   resources
}

func (s *soak) fillReport() {
	r := s.report
	r.Completed = s.l.wrong.Load() == nil
	r.Seconds, r.Decisions, r.Errs = time.Since(s.started).Seconds(), s.l.decisions.Load(), s.l.errs.Load()
	for i, c := range s.shards {
		for kind, n := range c.kinds {
			r.Kinds[kind] += n
			r.Faults += n
		}
		r.Losses += c.losses.Load()
		r.Recoveries += len(c.recoveries)
		if len(c.recoveries) > 0 && slices.Max(c.recoveries) >= r.SlowestRecovery {
			r.SlowestRecovery, r.SlowestAfter = slices.Max(c.recoveries), c.slowest
		}
		counts := s.l.counts(i)
		r.ByRedis, r.Cached, r.Fallback = r.ByRedis+counts[0], r.Cached+counts[1], r.Fallback+counts[2]
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
decisions          %d: %d by Redis, %d by the denial cache, %d by the failure policy
faults             %d of %d kinds; servers may have lost their data %d times
%s
over-admitted      %d tokens and permits beyond the bound of lost data; tokens gained by lost data %d, at most %.2f of the bound
of these, quotas   %d operations in %d periods, %d tokens admitted, %d beyond the bound, %d gained by lost data
permits            %d operations, %d granted, %d beyond the bound, %d gained by lost data; %d breaches of any kind while nothing was lost
double debits      %d tokens
false denials      %d by the store, %d by the denial cache after a server had lost its data
client errors      %d, of refunds, charges, releases and renewals, which have no failure policy
recovery           slowest %v, of %d, after: %s
goroutines         %d before, %d after
file descriptors   %d before, %d after
heap               %d KiB after the warm-up, %d KiB at the end`,
		r.Seed, r.Seconds, r.Decisions, r.ByRedis, r.Cached, r.Fallback, r.Faults, len(r.Kinds), r.Losses,
		strings.Join(kinds, "\n"), r.Redis.BeyondBound, r.Redis.Gained, r.Redis.ShareOfBound,
		r.Redis.Quotas.Records, r.Redis.Quotas.Periods, r.Redis.Quotas.Admitted, r.Redis.QuotasBeyondBound, r.Redis.Quotas.Gained,
		r.Redis.Permits.Records, r.Redis.Permits.Granted, r.Redis.Permits.BeyondBound, r.Redis.Permits.Gained, r.Redis.Permits.Breaches,
		r.Redis.DoubleDebited, r.Redis.FalseDenials, r.Redis.StaleDenials, r.Errs, r.SlowestRecovery.Round(time.Millisecond), r.Recoveries, strings.Join(r.SlowestAfter, ", "),
		r.Before.Goroutines, r.After.Goroutines, r.Before.Files, r.After.Files, r.HeapBefore>>10, r.HeapAfter>>10)
	if *soakDuration >= 10*time.Minute {
		assert.GreaterOrEqual(t, r.Decisions, int64(10_000_000))
	}
}
