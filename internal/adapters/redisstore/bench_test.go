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
// another key, of a store that looks for them and of one that does not, in turn. ns/op is of a pair of blocks. x-separate,
// cpu-x-separate and redis-cpu-x-separate are the medians of the pairs' ratios: of the time, and of the CPU time of this process
// and of Redis. On a busy machine the time says nothing, and the medians of less than some hundred pairs little.
func BenchmarkDistinctKeys(b *testing.B) {
	server := redistest.Start(b)
	cfg := config(server.Addr)
	stores := [...]*redisstore.Store{newStore(b, cfg), newStore(b, redisstore.WithSeparateRequests(cfg))}
	limits := []domain.Limit{limit(b, "burst", "5/s", 10)}
	keys := make([]clientkey.BucketKey, 100_000)
	for i := range keys {
		keys[i] = key(fmt.Sprint(i))
	}
	const takes = 4_000 // of a block
	for _, callers := range []int{64, 512} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			next := 0
			block := func(s *redisstore.Store) (spent [3]float64) {
				from := next
				next += takes
				before := [...]time.Duration{0, cpuTime(b), redisCPUTime(b, stores[0])}
				began := time.Now()
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
				for i, now := range [...]time.Duration{time.Since(began), cpuTime(b), redisCPUTime(b, stores[0])} {
					spent[i] = float64(now - before[i])
				}
				return spent
			}
			var ratios [3][]float64
			for pair := 0; b.Loop(); pair++ {
				var spent [2][3]float64
				for i := range spent {
					at := (i + pair) % 2 // each is first in every second pair
					spent[at] = block(stores[at])
				}
				for i := range ratios {
					ratios[i] = append(ratios[i], spent[0][i]/spent[1][i])
				}
			}
			for i, unit := range [...]string{"x-separate", "cpu-x-separate", "redis-cpu-x-separate"} {
				b.ReportMetric(median(ratios[i]), unit)
			}
		})
	}
}

// BenchmarkPermits is what a take by a concurrency limit costs Redis while each client holds so many permits: blocks of such takes
// and of takes by a bucket, in turn, in batches of 32. ns/op is of a pair of blocks and the releases after it.
// redis-cpu-x-bucket is the median of the pairs' ratios of Redis's CPU time.
func BenchmarkPermits(b *testing.B) {
	const clients, groups = 1_280, 32
	held, burst := concurrency(b, "held", 1_000, time.Hour), limit(b, "burst", "1000000/s", 1_000_000)
	s := newStore(b, config(redistest.Start(b).Addr))
	reqs, results := make([]ports.TakeRequest, groups), make([]ports.TakeResult, groups)
	block := func(op domain.Op, l domain.Limit, permit int) time.Duration {
		before := redisCPUTime(b, s)
		for i := range clients {
			reqs[i%groups] = ports.TakeRequest{Op: op, Key: key(fmt.Sprint(i)), Limits: []domain.Limit{l}, Cost: 1}
			if l.Kind() == domain.KindConcurrency {
				reqs[i%groups].Permit = domain.NewPermitID(fmt.Sprintf("%d-abcdefghijkl", permit), 1, 1_800_000_000_000_000)
			}
			if i%groups == groups-1 {
				s.TakeMany(b.Context(), reqs, results)
				for j := range results {
					require.NoError(b, results[j].Err)
					require.Equal(b, domain.Allowed, results[j].Verdict)
				}
			}
		}
		return redisCPUTime(b, s) - before
	}
	permits := 0
	for _, before := range []int{0, 1, 10, 30, 100} {
		b.Run(fmt.Sprintf("held=%d", before), func(b *testing.B) {
			for ; permits < before; permits++ {
				block(domain.OpTake, held, permits)
			}
			var ratios []float64
			for b.Loop() {
				ratios = append(ratios, float64(block(domain.OpTake, held, permits))/float64(block(domain.OpTake, burst, 0)))
				block(domain.OpRelease, held, permits)
			}
			b.ReportMetric(median(ratios), "redis-cpu-x-bucket")
		})
	}
}

// redisCPUTime is what the only server of a store has used.
func redisCPUTime(b *testing.B, s *redisstore.Store) (spent time.Duration) {
	info := s.Manager().GetClient("any").InfoMap(b.Context(), "cpu")
	for _, field := range []string{"used_cpu_user", "used_cpu_sys"} {
		part, err := time.ParseDuration(info.Item("CPU", field) + "s")
		require.NoError(b, err)
		spent += part
	}
	return spent
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
