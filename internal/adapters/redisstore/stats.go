package redisstore

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// kinds is a set of kinds of failures: a bit for each, in the order of allKinds.
type kinds uint64

var (
	allKinds = ports.FailureKinds()
	kindBits = func() map[ports.FailureKind]kinds {
		m := make(map[ports.FailureKind]kinds, len(allKinds))
		for i, k := range allKinds {
			m[k] = 1 << i
		}
		return m
	}()
)

func bitOf(k ports.FailureKind) kinds { return kindBits[k] }

// counts is how a shard has fared since the start. It is written once per batch.
type counts struct {
	refused, overloaded, openings atomic.Uint64

	failures [64]atomic.Uint64 // by the bit in kinds
	nanos    histogram
	sizes    histogram
	skew     atomic.Int64 // nanoseconds
}

func (c *counts) batch(groups int, took time.Duration, failed kinds) {
	c.nanos.add(nanoBounds, uint64(took))
	c.sizes.add(sizeBounds, uint64(groups))
	for ; failed != 0; failed &= failed - 1 {
		c.failures[bits.TrailingZeros64(uint64(failed))].Add(1)
	}
}

// The bounds of the histograms, and the same in the unit of the port.
var (
	nanoBounds = []uint64{100e3, 250e3, 500e3, 1e6, 2.5e6, 5e6, 10e6, 25e6, 50e6, 100e6, 250e6, 1e9}
	sizeBounds = []uint64{1, 2, 4, 8, 16, 32, 64, maxGroups}

	secondsBounds = scaled(nanoBounds, 1e-9)
	groupsBounds  = scaled(sizeBounds, 1)
)

func scaled(bounds []uint64, by float64) []float64 {
	out := make([]float64, len(bounds))
	for i, b := range bounds {
		out[i] = float64(b) * by
	}
	return out
}

// histogram counts whole numbers, so that adding up needs no lock.
type histogram struct {
	counts [16]atomic.Uint64 // more than there are bounds
	sum    atomic.Uint64
}

func (h *histogram) add(bounds []uint64, n uint64) {
	at := 0
	for at < len(bounds) && n > bounds[at] {
		at++
	}
	h.counts[at].Add(1)
	h.sum.Add(n)
}

// read returns a copy, in another unit, and the number of observations.
func (h *histogram) read(bounds []float64, unit float64) (ports.Histogram, uint64) {
	out := ports.Histogram{
		Bounds: bounds, Counts: make([]uint64, len(bounds)+1), Sum: float64(h.sum.Load()) * unit,
	}
	total := uint64(0)
	for i := range out.Counts {
		out.Counts[i] = h.counts[i].Load()
		total += out.Counts[i]
	}
	return out, total
}

// stats reads all there is to know of a shard without asking it.
func (b *batcher) stats(name string) ports.ShardStats {
	s := ports.ShardStats{Name: name}
	b.mu.Lock()
	s.Queued, s.InFlight = b.queued, b.inFlight
	b.mu.Unlock()
	b.guard.read(&s)
	return s
}

func (g *guard) read(s *ports.ShardStats) {
	g.mu.Lock()
	s.Since = g.since
	g.mu.Unlock()
	s.Breaker = ports.BreakerState(g.circuit.State().String())
	s.Up = s.Breaker == ports.BreakerClosed && !g.down.Load()

	c := &g.counts
	s.BatchSeconds, s.Batches = c.nanos.read(secondsBounds, 1e-9)
	s.BatchGroups, _ = c.sizes.read(groupsBounds, 1)
	s.Groups = c.sizes.sum.Load()
	s.Failures = make(map[ports.FailureKind]uint64, len(allKinds))
	for i, k := range allKinds {
		s.Failures[k] = c.failures[i].Load()
	}
	s.Refused, s.Overloaded, s.Openings = c.refused.Load(), c.overloaded.Load(), c.openings.Load()
	s.ClockSkew = time.Duration(c.skew.Load())
}

// MaxSkew is how far the clock of a shard may be from this process's before OnSkew tells of it.
const MaxSkew = time.Second

// compareClocks compares the server's time of a batch with the time that passed here meanwhile. Within it nothing
// can be said; what lies outside is certain.
func (g *guard) compareClocks(groups []*group, began, end time.Time) {
	first := &groups[0].result
	if first.Err != nil {
		return
	}
	skew := time.Duration(0)
	if now := first.Now.Time(); now.After(end) {
		skew = now.Sub(end)
	} else if began := began.Truncate(time.Microsecond); now.Before(began) {
		skew = now.Sub(began)
	}
	g.counts.skew.Store(int64(skew))
	far := skew.Abs() > MaxSkew
	if skewed := g.skewed.Load(); far == skewed || skewed && skew.Abs() > MaxSkew/2 { // so that noise does not repeat it
		return
	}
	if g.skewed.Swap(far) != far {
		g.notices.skewed(g.name, skew)
	}
}
