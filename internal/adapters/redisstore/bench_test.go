package redisstore_test

import (
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// BenchmarkTakeMany is one caller, waiting for each call; ns/op is of a call, ns/decision of a group.
func BenchmarkTakeMany(b *testing.B) {
	server := redistest.Start(b)
	s := newStore(b, config(server.Addr))
	limits := []domain.Limit{limit(b, "burst", "5/s", 10)}
	keys := make([]clientkey.BucketKey, 100_000)
	for i := range keys {
		keys[i] = key(fmt.Sprint(i))
	}
	for _, groups := range []int{1, 32, 128} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			reqs := make([]ports.TakeRequest, groups)
			results := make([]ports.TakeResult, groups)
			b.ReportAllocs()
			client := 0
			for b.Loop() {
				for i := range reqs {
					reqs[i] = ports.TakeRequest{Op: domain.OpTake, Key: keys[client%len(keys)], Limits: limits, Cost: 1}
					client++
				}
				s.TakeMany(b.Context(), reqs, results)
				for i := range results {
					require.NoError(b, results[i].Err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*groups), "ns/decision")
		})
	}
}

// BenchmarkDistinctKeys is what looking for equal requests costs where there are none: blocks of takes by many callers, each of
// another key, of a store that looks for them and of one that does not, in turn. ns/op is of a pair of blocks; x-separate and
// cpu-x-separate are the medians of the pairs' ratios, of the time and of this process's CPU time. On a busy machine only the
// second says something.
func BenchmarkDistinctKeys(b *testing.B) {
	server := redistest.Start(b)
	cfg := config(server.Addr)
	stores := [...]*redisstore.Store{newStore(b, cfg), newStore(b, redisstore.WithSeparateRequests(cfg))}
	limits := []domain.Limit{limit(b, "burst", "5/s", 10)}
	keys := make([]clientkey.BucketKey, 100_000)
	for i := range keys {
		keys[i] = key(fmt.Sprint(i))
	}
	const takes = 20_000 // of a block
	for _, callers := range []int{64, 512} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			next := 0
			block := func(s *redisstore.Store) (took, cpu time.Duration) {
				from := next
				next += takes
				began, spent := time.Now(), cpuTime(b)
				var wg sync.WaitGroup
				for c := range callers {
					wg.Go(func() {
						for i := from + c; i < from+takes; i += callers {
							if r := ports.Take(b.Context(), s, ports.TakeRequest{Key: keys[i%len(keys)], Limits: limits, Cost: 1}); r.Err != nil {
								b.Error(r.Err)
								return
							}
						}
					})
				}
				wg.Wait()
				return time.Since(began), cpuTime(b) - spent
			}
			var ratios, cpuRatios []float64
			for b.Loop() {
				var took, cpu [2]time.Duration
				for i := range took {
					at := (i + len(ratios)) % 2 // each is first in every second pair
					took[at], cpu[at] = block(stores[at])
				}
				ratios = append(ratios, float64(took[0])/float64(took[1]))
				cpuRatios = append(cpuRatios, float64(cpu[0])/float64(cpu[1]))
			}
			b.ReportMetric(median(ratios), "x-separate")
			b.ReportMetric(median(cpuRatios), "cpu-x-separate")
		})
	}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
