package suite

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/velocity-limiter/velocity/bench/internal/memorypeer"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/report"
)

const usualLoad = "usual limit"

// plenty is a limit that no client reaches.
var plenty = peer.Limit{Tokens: 1_000_000, Per: usual.Per, Capacity: 1_000_000}

func (s *Suite) inMemory(ctx context.Context) error {
	section := &report.Section{
		ID: "inmemory", Title: "In memory",
		About: "Go benchmarks of a limiter that holds all clients already, with as many goroutines as CPUs, each drawing clients at random. " +
			"At the usual limit of " + usual.String() + " such a load is denied most of the time; under a limit that no client reaches it never is.",
		Columns: []report.Column{
			{Key: "ns", Title: "ns per decision", Decimals: 1, Chart: true, LowerIsBetter: true},
			{Key: "allocs", Title: "allocations"},
			{Key: "bytes", Title: "bytes allocated"},
		},
		Facts: []string{factOver, factPass, factSpent, factForm},
	}
	var all []measurement
	for _, load := range []struct {
		name  string
		limit peer.Limit
	}{{usualLoad, usual}, {"no denials", plenty}} {
		for _, cpus := range []int{1, 2} {
			for _, p := range memorypeer.All() {
				all = append(all, measurement{inMemoryGroup(load.name, cpus), p.Name, func(ctx context.Context) (report.Values, error) {
					return s.benchmark(ctx, p, load.limit, cpus)
				}})
			}
		}
	}
	return s.measure(ctx, section, all, s.cfg.Rounds, fixture{
		setUp: func(context.Context) (func(), error) {
			// The time of testing.Benchmark is a flag of the testing package.
			testing.Init()
			return func() {}, flag.Set("test.benchtime", s.cfg.Duration.String())
		},
		describe: func(ctx context.Context) { s.describeMemoryPeers(ctx, section) },
	})
}

func inMemoryGroup(load string, cpus int) string { return fmt.Sprintf("%s, GOMAXPROCS %d", load, cpus) }

func (s *Suite) benchmark(ctx context.Context, p memorypeer.Peer, limit peer.Limit, cpus int) (values report.Values, err error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cpus))
	limiter, err := p.Open(limit, len(s.names))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, limiter.Shut()) }()
	if err := takeEach(ctx, limiter, s.names); err != nil {
		return nil, err
	}
	runtime.GC()
	var failed atomic.Value // of an error
	var worker atomic.Uint64
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			take, rng := limiter.NewTake(), rand.New(rand.NewPCG(s.cfg.Seed, worker.Add(1)))
			for pb.Next() {
				if _, err := take(ctx, s.names[rng.IntN(len(s.names))]); err != nil {
					failed.Store(err)
					return
				}
			}
		})
	})
	if err, ok := failed.Load().(error); ok {
		return nil, err
	}
	if result.N == 0 {
		return nil, errors.New("the benchmark did not run")
	}
	return report.Values{
		"ns":     float64(result.T.Nanoseconds()) / float64(result.N),
		"allocs": float64(result.AllocsPerOp()),
		"bytes":  float64(result.AllocedBytesPerOp()),
	}, nil
}

func (s *Suite) describeMemoryPeers(ctx context.Context, section *report.Section) {
	const few = 100 // of clients
	examinations := make(map[string]examination)
	for _, p := range memorypeer.All() {
		o := opener{form: p.Form, open: func(l peer.Limit) (*peer.Limiter, error) { return p.Open(l, few) }}
		if p.OpenGroup != nil {
			o.group = func(l []peer.Limit) (all, first *peer.Limiter, err error) { return p.OpenGroup(l, few) }
		}
		examinations[p.Name] = s.examineLimiter(ctx, o)
	}
	s.examine(section, examinations)
}
