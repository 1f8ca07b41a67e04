package memstore_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// BenchmarkTake takes one token of one of 100,000 known clients, in random order: 5 tokens a second, capacity 10, or a
// quota. No key is the very string that the store holds. The module bench compares the bucket with other limiters.
func BenchmarkTake(b *testing.B) {
	b.Run("bucket", func(b *testing.B) { benchmarkTake(b, mustLimit(b, "default", "5/s", 10)) })
	b.Run("quota", func(b *testing.B) { benchmarkTake(b, mustQuota(b, "default", domain.MaxTokens, "day")) })
}

func benchmarkTake(b *testing.B, limit domain.Limit) {
	const clients = 100_000
	stored, asked := clientKeys(clients), clientKeys(clients)
	store, err := memstore.New(memstore.DefaultConfig())
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, store.Close()) })
	limits, ctx := []domain.Limit{limit}, b.Context()
	forGoroutine := func() (take func(key string)) {
		reqs, results := make([]ports.TakeRequest, 1), make([]ports.TakeResult, 1)
		return func(key string) {
			reqs[0] = ports.TakeRequest{Key: clientkey.BucketKey(key), Limits: limits, Cost: 1}
			store.TakeMany(ctx, reqs, results)
		}
	}
	fill := forGoroutine()
	for _, key := range stored {
		fill(key)
	}
	runtime.GC()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		take, random := forGoroutine(), rand.New(rand.NewPCG(1, rand.Uint64()))
		for pb.Next() {
			take(asked[random.Uint32N(clients)])
		}
	})
}

func clientKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = "default:ip=10." + strconv.Itoa(i>>16) + "." + strconv.Itoa(i>>8&255) + "." + strconv.Itoa(i&255)
	}
	return keys
}

// BenchmarkMillionClients takes one token of each of a million new clients and reports what each occupies, its key
// included: of the live heap, and of the resident memory (Linux), which is larger because tables grow by copying and the
// garbage collector runs behind. The documents have the figures of
//
//	go test ./internal/adapters/memstore -run '^$' -bench MillionClients -benchtime 1x
func BenchmarkMillionClients(b *testing.B) {
	const clients = 1_000_000
	limits := []domain.Limit{mustLimit(b, "default", "1/h", 10)}
	for b.Loop() {
		store, err := memstore.New(memstore.DefaultConfig())
		require.NoError(b, err)
		before, residentBefore := heapInUse(), resident()
		reqs, results := make([]ports.TakeRequest, 1), make([]ports.TakeResult, 1)
		for i := range clients {
			reqs[0] = ports.TakeRequest{Key: clientkey.BucketKey(fmt.Sprintf("default:ip=10.%03d.%03d.%03d", i>>16, i>>8&255, i&255)), Limits: limits, Cost: 1}
			store.TakeMany(b.Context(), reqs, results)
		}
		b.ReportMetric(float64(resident()-residentBefore)/clients, "resident-B/client")
		b.ReportMetric(float64(heapInUse()-before)/clients, "live-B/client")
		require.Equal(b, clients, store.Stats().Buckets)
		require.NoError(b, store.Close())
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/clients, "ns/client")
}

// BenchmarkPermits_full takes a permit for a new client while the store holds as many permits as it may.
func BenchmarkPermits_full(b *testing.B) {
	const most = 256 << 10 // 1,024 in each stripe
	store, err := memstore.New(memstore.Config{MaxBuckets: most})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, store.Close()) })
	parallel := mustConcurrency(b, "parallel", 1, time.Hour)
	for i := range most {
		require.Equal(b, domain.Allowed, mustHold(b, store, numbered("holder", i), "p", parallel))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		require.ErrorIs(b, hold(b, store, numbered("new", i), "p", parallel).Err, ports.ErrOverloaded)
	}
}

// BenchmarkPermits takes one permit for each of 100,000 new clients and reports what each occupies of the live heap, its key
// included. Then it releases them all, and reports what stays.
func BenchmarkPermits(b *testing.B) {
	const clients = 100_000
	limits := []domain.Limit{mustConcurrency(b, "default", 5, time.Hour)}
	keys := clientKeys(clients)
	for b.Loop() {
		store, err := memstore.New(memstore.DefaultConfig())
		require.NoError(b, err)
		before := heapInUse()
		reqs, results := make([]ports.TakeRequest, 1), make([]ports.TakeResult, 1)
		for i, op := range []domain.Op{domain.OpTake, domain.OpRelease} {
			for _, key := range keys {
				reqs[0] = ports.TakeRequest{Op: op, Key: clientkey.BucketKey(key), Limits: limits, Permit: "abcdefghijklmnopqrstuv.1.1700000000000000"}
				if op == domain.OpTake {
					reqs[0].Cost = 1
				}
				store.TakeMany(b.Context(), reqs, results)
			}
			b.ReportMetric((float64(heapInUse())-float64(before))/clients, []string{"live-B/permit", "left-B/permit"}[i])
		}
		require.Zero(b, store.Stats().Permits)
		require.NoError(b, store.Close())
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/clients/2, "ns/op")
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// resident returns the resident memory of this process, in bytes; 0 if it is not known.
func resident() int {
	var size, pages int
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		_, _ = fmt.Sscan(string(text), &size, &pages) // a text of another form counts as not known
	}
	return pages * os.Getpagesize()
}
