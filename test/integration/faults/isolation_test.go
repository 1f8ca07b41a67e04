//go:build faults

package faults

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/test/measure"
)

// isolationReport is the cost of a shard that is down.
type isolationReport struct {
	// Ratios has one ratio for each pair of measurements: the 99th percentile of the other shards' answers with one of
	// three shards down, over the 99th percentile before.
	Ratios []float64
	Ratio  float64 // their median
	// Open is the 99th percentile of requests for the shard that is down, once its breaker is open.
	Open time.Duration
}

// TestIsolation kills one of three shards under a load that leaves half of the machine idle.
func TestIsolation(t *testing.T) {
	pairs, each := 1, 500*time.Millisecond
	if measure.Exact() {
		pairs, each = 5, 3*time.Second
	}
	f := startFleet(t, fleetConfig{shards: 3, direct: true})
	p := newSteadyLoad(f, 2000)
	p.run(t, each) // connects
	r := &isolationReport{}
	var open []time.Duration
	for range pairs {
		before := p.run(t, each)
		f.servers[0].Kill()
		p.run(t, 500*time.Millisecond) // until the breaker is open
		during := p.run(t, each)
		f.servers[0].Restart()
		open = append(open, during[0]...)
		healthy := measure.Quantile(append(before[1], before[2]...), 0.99)
		others := measure.Quantile(append(during[1], during[2]...), 0.99)
		r.Ratios = append(r.Ratios, float64(others)/float64(healthy))
		require.Eventually(t, func() bool {
			return ports.Take(t.Context(), f.store, p.request(0, 0)).Err == nil
		}, waitTimeout, 10*time.Millisecond)
	}
	r.Open, r.Ratio = measure.Quantile(open, 0.99), measure.Median(r.Ratios)
	t.Logf("p99 of the other shards x %.2f (%.2f), p99 of the shard that is down %v", r.Ratio, r.Ratios, r.Open)
	measure.Keep(t, "isolation", r)
	if measure.Exact() {
		assert.LessOrEqual(t, r.Ratio, 1.5)
		assert.Less(t, r.Open, 5*time.Millisecond)
	}
}

// steadyLoad sends requests to the shards at a constant rate, independent of the answers.
type steadyLoad struct {
	f     *fleet
	rate  int // requests per second, all shards together
	limit domain.Limit
	keys  [][]clientkey.BucketKey // by shard
}

func newSteadyLoad(f *fleet, rate int) *steadyLoad {
	limit, err := domain.NewBucket("burst", 1_000_000, 1000, time.Second)
	if err != nil {
		panic(err)
	}
	p := &steadyLoad{f: f, rate: rate, limit: limit, keys: make([][]clientkey.BucketKey, len(f.servers))}
	for i := range 300 {
		key := bucketKey(hot, fmt.Sprint("steady-", i))
		shard := f.shardOf(key)
		p.keys[shard] = append(p.keys[shard], key)
	}
	return p
}

func (p *steadyLoad) request(shard, i int) ports.TakeRequest {
	keys := p.keys[shard]
	return ports.TakeRequest{Op: domain.OpTake, Key: keys[i%len(keys)], Limits: []domain.Limit{p.limit}, Cost: 1}
}

// run sends requests for the duration d, and returns the latencies of each shard.
func (p *steadyLoad) run(t *testing.T, d time.Duration) [][]time.Duration {
	t.Helper()
	took := make([][]time.Duration, len(p.keys))
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := time.Now()
	interval := time.Second / time.Duration(p.rate)
	for i := 0; ; i++ {
		due := start.Add(time.Duration(i) * interval)
		if due.Sub(start) > d {
			break
		}
		time.Sleep(time.Until(due))
		sent := time.Now()
		wg.Go(func() {
			shard := i % len(p.keys)
			_ = ports.Take(t.Context(), p.f.store, p.request(shard, i/len(p.keys)))
			end := time.Since(sent)
			mu.Lock()
			defer mu.Unlock()
			took[shard] = append(took[shard], end)
		})
	}
	wg.Wait()
	return took
}

// budgetReport is the latency of a decision while its shard is stopped and the breaker is still closed.
type budgetReport struct {
	Take, Timer, Less time.Duration // 99.9th percentile of takes, of the delay of an idle timer, and the difference
	Takes             int
}

// TestBudget stops a shard repeatedly, and measures the takes that find its breaker closed.
func TestBudget(t *testing.T) {
	rounds, together := 3, 16
	if measure.Exact() {
		rounds, together = 60, 32
	}
	f := startFleet(t, fleetConfig{shards: 1, direct: true})
	p := newSteadyLoad(f, 1)
	budget := takeTimeout()
	var takes, timers []time.Duration
	for range rounds {
		require.Eventually(t, func() bool {
			return ports.Take(t.Context(), f.store, p.request(0, 0)).Err == nil
		}, waitTimeout, 5*time.Millisecond)
		f.servers[0].Pause()
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range together {
			wg.Go(func() {
				start := time.Now()
				_ = ports.Take(t.Context(), f.store, p.request(0, i))
				took := time.Since(start)
				mu.Lock()
				defer mu.Unlock()
				takes = append(takes, took)
			})
			wg.Go(func() {
				start := time.Now()
				time.Sleep(budget)
				late := time.Since(start) - budget
				mu.Lock()
				defer mu.Unlock()
				timers = append(timers, late)
			})
		}
		wg.Wait()
		f.servers[0].Resume()
	}
	r := &budgetReport{Take: measure.Quantile(takes, 0.999), Timer: measure.Quantile(timers, 0.999), Takes: len(takes)}
	r.Less = r.Take - r.Timer
	t.Logf("p99.9 of %d takes %v, of an idle timer %v late", r.Takes, r.Take, r.Timer)
	measure.Keep(t, "budget", r)
	assert.GreaterOrEqual(t, measure.Quantile(takes, 0.5), budget/4, "the takes did not wait: the breaker was open")
	if measure.Exact() {
		assert.LessOrEqual(t, r.Less, 60*time.Millisecond)
	}
}
