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

	"github.com/velocity-limiter/velocity/bench/internal/law"
	"github.com/velocity-limiter/velocity/bench/internal/memorypeer"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/report"
)

const usualLoad = "usual limit"

// plenty is a limit that nobody reaches.
var plenty = peer.Limit{Tokens: 1_000_000, Per: usual.Per, Capacity: 1_000_000}

func (s *Suite) inMemory(ctx context.Context) error {
	section := &report.Section{
		ID: "inmemory", Title: "In memory",
		About: "Go benchmarks of a limiter that holds all clients already, with as many goroutines as CPUs, each drawing clients at random. " +
			"At the usual limit of " + usual.String() + " such a load is denied most of the time; under a limit that nobody reaches it never is.",
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
	}{{usualLoad, usual}, {"nobody denied", plenty}} {
		for _, cpus := range []int{1, 2} {
			for _, p := range memorypeer.All() {
				all = append(all, measurement{inMemoryGroup(load.name, cpus), p.Name, func(ctx context.Context) (report.Values, error) {
					return s.benchmark(ctx, p, load.limit, cpus)
				}})
			}
		}
	}
	all = s.selected(section, all)
	if len(all) == 0 {
		return nil
	}
	// The time of testing.Benchmark is a flag of the testing package.
	testing.Init()
	if err := flag.Set("test.benchtime", s.cfg.Duration.String()); err != nil {
		return err
	}
	if err := s.interleave(ctx, section, all, s.cfg.Rounds); err != nil {
		return err
	}
	s.describeMemoryPeers(ctx, section)
	return nil
}

func inMemoryGroup(load string, cpus int) string { return fmt.Sprintf("%s, GOMAXPROCS %d", load, cpus) }

func (s *Suite) benchmark(ctx context.Context, p memorypeer.Peer, limit peer.Limit, cpus int) (values report.Values, err error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cpus))
	limiter, err := p.Open(limit, s.names)
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
	examinations := make(map[string]examination)
	for _, p := range memorypeer.All() {
		examinations[p.Name] = func() (map[string]string, error) { return s.examineMemoryPeer(ctx, p) }
	}
	s.examine(section, examinations)
}

func (s *Suite) examineMemoryPeer(ctx context.Context, p memorypeer.Peer) (map[string]string, error) {
	clients := []string{"edge", "denied"} // about as many as there will be
	limiter, err := p.Open(usual, clients)
	if err != nil {
		return nil, err
	}
	defer limiter.Shut()
	finding, err := law.WorstAtTheEdge(ctx, limiter.NewTake(), "edge", usual, usual.Window(), s.cfg.LawTries)
	if err != nil {
		return nil, err
	}
	facts := describeFinding(finding, p.Form)
	var both, wide *peer.Limiter
	if p.OpenGroup != nil {
		both, wide, err = p.OpenGroup([]peer.Limit{law.Wide, law.Narrow}, clients)
	} else {
		both, wide, err = openTwoInMemory(p, clients)
	}
	if err != nil {
		return facts, err
	}
	defer both.Shut()
	spent, err := law.SpentByDenials(ctx, both.NewTake(), wide.NewTake(), "denied")
	if err != nil {
		return facts, err
	}
	facts[factSpent] = describeSpent(spent, p.OpenGroup != nil)
	return facts, nil
}

func openTwoInMemory(p memorypeer.Peer, clients []string) (both, wide *peer.Limiter, err error) {
	if wide, err = p.Open(law.Wide, clients); err != nil {
		return nil, nil, err
	}
	narrow, err := p.Open(law.Narrow, clients)
	if err != nil {
		return nil, nil, err
	}
	return peer.Both(wide, narrow), wide, nil
}
