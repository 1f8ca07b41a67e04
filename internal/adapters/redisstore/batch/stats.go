package batch

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// counts is what happened to a server's batches since the start.
type counts struct {
	refused, overloaded atomic.Uint64 // groups

	failures map[failure.Kind]*atomic.Uint64 // of every kind
	nanos    histogram
	sizes    histogram
	skew     atomic.Int64 // nanoseconds
	skewed   atomic.Bool  // the clocks differ too much
}

func newCounts() *counts {
	c := &counts{
		failures: make(map[failure.Kind]*atomic.Uint64),
		nanos: histogram{
			unit: 1e-9, bounds: []uint64{100e3, 250e3, 500e3, 1e6, 2.5e6, 5e6, 10e6, 25e6, 50e6, 100e6, 250e6, 1e9},
		},
		sizes: histogram{unit: 1, bounds: []uint64{1, 2, 4, 8, 16, 32, 64, script.MaxGroups, 256, 512, maxRequests}},
	}
	for _, kind := range failure.Kinds() {
		c.failures[kind] = new(atomic.Uint64)
	}
	return c
}

func (c *counts) batch(groups int, took time.Duration, failed []failure.Kind) {
	c.nanos.add(uint64(took))
	c.sizes.add(uint64(groups))
	for _, kind := range failed {
		c.failures[kind].Add(1)
	}
}

// histogram counts integers, so that adding needs no lock.
type histogram struct {
	bounds []uint64 // at most 15, ascending
	unit   float64  // size of 1, in the unit of the port
	counts [16]atomic.Uint64
	sum    atomic.Uint64
}

func (h *histogram) add(n uint64) {
	at, _ := slices.BinarySearch(h.bounds, n)
	h.counts[at].Add(1)
	h.sum.Add(n)
}

// read returns a copy, in the unit of the port, and the number of observations.
func (h *histogram) read() (out ports.Histogram, total uint64) {
	out.Sum = float64(h.sum.Load()) * h.unit
	for i := range len(h.bounds) + 1 {
		out.Counts = append(out.Counts, h.counts[i].Load())
		total += out.Counts[i]
	}
	for _, b := range h.bounds {
		out.Bounds = append(out.Bounds, float64(b)*h.unit)
	}
	return out, total
}

// read fills in what was counted.
func (c *counts) read(s *ports.ShardStats) {
	s.BatchSeconds, s.Batches = c.nanos.read()
	s.BatchGroups, _ = c.sizes.read()
	s.Groups = c.sizes.sum.Load()
	s.Failures = make(map[string]uint64, len(c.failures))
	for kind, n := range c.failures {
		s.Failures[string(kind)] = n.Load()
	}
	s.Refused, s.Overloaded = c.refused.Load(), c.overloaded.Load()
	s.ClockSkew = time.Duration(c.skew.Load())
}

// MaxSkew is how far a server's clock may be from this process's clock before that is reported.
const MaxSkew = time.Second

// compareClocks compares the server's time of a batch with the time that passed here meanwhile. A time in between is no
// difference; the rest is how far the server's clock is ahead, at the least. It reports whether the difference has become
// too large, or has ceased to be.
func (c *counts) compareClocks(first *ports.TakeResult, began, end time.Time) (skew time.Duration, changed bool) {
	if first.Err != nil {
		return 0, false
	}
	if now := first.Now.Time(); now.After(end) {
		skew = now.Sub(end)
	} else if began := began.Truncate(time.Microsecond); now.Before(began) {
		skew = now.Sub(began)
	}
	c.skew.Store(int64(skew))
	far := skew.Abs() > MaxSkew
	if skewed := c.skewed.Load(); far == skewed || skewed && skew.Abs() > MaxSkew/2 { // noise around the bound is no change
		return 0, false
	}
	return skew, c.skewed.Swap(far) != far
}
