// Package load drives a subject in a closed loop: each worker asks, waits for the answer and asks again. The subject sets
// the rate, and latencies are those of a fully loaded subject.
package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/stats"
)

// Outcome is the result of one call: the number of decisions, and how many of them allowed the request.
type Outcome struct {
	Decisions, Allowed int
	// Degraded counts decisions that a failure policy or a local fallback made, and not the store under test.
	Degraded int
}

// Call asks once, for a client that it draws from rng.
type Call func(rng *rand.Rand) (Outcome, error)

// Config bounds a run in time and in count.
type Config struct {
	Workers int
	// Seed of the workers' generators: worker i draws from (Seed, i), so that every subject meets the same clients.
	Seed     uint64
	Warmup   time.Duration
	Duration time.Duration
	// MaxCalls bounds the calls that are measured, over all workers. 0: DefaultMaxCalls.
	MaxCalls int
	// NewCall makes a worker's call, with the connection or the buffers that it keeps for itself.
	NewCall func(worker int) (Call, error)
	// Started and Ended, if set, are called when the warm-up is over and when the last call has been answered.
	Started, Ended func() error
}

// DefaultMaxCalls keeps the samples of a run below 128 MB.
const DefaultMaxCalls = 32_000_000

// Result is what was measured, the warm-up excluded.
type Result struct {
	Calls, Decisions, Allowed, Degraded int64
	Elapsed                             time.Duration
	latencies                           []uint32 // of each call, in ns, sorted
}

// PerSecond is the rate of decisions.
func (r *Result) PerSecond() float64 { return float64(r.Decisions) / r.Elapsed.Seconds() }

// Latency returns the exact percentile of the calls' latencies.
func (r *Result) Latency(percent float64) time.Duration {
	return time.Duration(stats.Percentile(r.latencies, percent))
}

type worker struct {
	call      Call
	rng       *rand.Rand
	total     Outcome
	latencies []uint32
	err       error
}

// Run runs the load. The first error of any call ends it: a subject that fails is not measured.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if cfg.MaxCalls == 0 {
		cfg.MaxCalls = DefaultMaxCalls
	}
	workers := make([]*worker, cfg.Workers)
	for i := range workers {
		call, err := cfg.NewCall(i)
		if err != nil {
			return nil, fmt.Errorf("worker %d: %w", i, err)
		}
		workers[i] = &worker{call: call, rng: rand.New(rand.NewPCG(cfg.Seed, uint64(i)))}
	}
	if _, err := phase(ctx, workers, cfg.Warmup, math.MaxInt); err != nil {
		return nil, fmt.Errorf("warm-up: %w", err)
	}
	for _, w := range workers {
		w.total, w.latencies = Outcome{}, nil
	}
	runtime.GC() // do not charge this subject for earlier garbage
	if cfg.Started != nil {
		if err := cfg.Started(); err != nil {
			return nil, err
		}
	}
	elapsed, err := phase(ctx, workers, cfg.Duration, max(1, cfg.MaxCalls/cfg.Workers))
	if err != nil {
		return nil, err
	}
	if cfg.Ended != nil {
		if err := cfg.Ended(); err != nil {
			return nil, err
		}
	}
	return sum(workers, elapsed), nil
}

// phase starts all workers at once and returns the time from the start to the last answer.
func phase(ctx context.Context, workers []*worker, d time.Duration, maxCalls int) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gun := make(chan struct{})
	var wg sync.WaitGroup
	var begin time.Time
	for _, w := range workers {
		wg.Go(func() {
			<-gun
			if w.err = w.run(ctx, begin.Add(d), maxCalls); w.err != nil {
				cancel()
			}
		})
	}
	begin = time.Now()
	close(gun)
	wg.Wait()
	elapsed := time.Since(begin)
	var errs []error
	for _, w := range workers {
		if w.err != nil && !errors.Is(w.err, context.Canceled) {
			return elapsed, w.err
		}
		errs = append(errs, w.err)
	}
	return elapsed, errors.Join(errs...)
}

// run calls until the end. The time of an answer is also the start of the next call, so a call reads the clock once.
func (w *worker) run(ctx context.Context, end time.Time, maxCalls int) error {
	start := time.Now()
	for n := 0; n < maxCalls && start.Before(end); n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		o, err := w.call(w.rng)
		if err != nil {
			return err
		}
		now := time.Now()
		w.latencies = append(w.latencies, uint32(min(now.Sub(start), math.MaxUint32)))
		start = now
		w.total.Decisions += o.Decisions
		w.total.Allowed += o.Allowed
		w.total.Degraded += o.Degraded
	}
	return nil
}

func sum(workers []*worker, elapsed time.Duration) *Result {
	r := &Result{Elapsed: elapsed}
	for _, w := range workers {
		r.Calls += int64(len(w.latencies))
		r.Decisions += int64(w.total.Decisions)
		r.Allowed += int64(w.total.Allowed)
		r.Degraded += int64(w.total.Degraded)
		r.latencies = append(r.latencies, w.latencies...)
	}
	slices.Sort(r.latencies)
	return r
}

// Clients returns the names of n clients, of 12 bytes each.
func Clients(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("client%06d", i)
	}
	return names
}
