package memstore_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const peerKeys = 100_000

// BenchmarkPeers takes one token of one of 100,000 known clients, in random order, from this store and from others
// in the same run: 5 tokens a second, capacity 10. All get a key that is not the very string which they hold.
func BenchmarkPeers(b *testing.B) {
	stored, asked := clientKeys(peerKeys), clientKeys(peerKeys)
	for _, peer := range []struct {
		name string
		make func(b *testing.B) func() (take func(key string))
	}{
		{"memstore", velocity},
		{"go-limiter", goLimiter},
		{"sync.Map of x/time/rate", syncMapOfLimiters},
	} {
		b.Run(peer.name, func(b *testing.B) {
			forGoroutine := peer.make(b)
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
					take(asked[random.Uint32N(peerKeys)])
				}
			})
		})
	}
}

func clientKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = "default:ip=10." + strconv.Itoa(i>>16) + "." + strconv.Itoa(i>>8&255) + "." + strconv.Itoa(i&255)
	}
	return keys
}

func velocity(b *testing.B) func() func(string) {
	store, err := memstore.New(memstore.DefaultConfig())
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, store.Close()) })
	limits, ctx := []domain.Limit{mustLimit(b, "default", "5/s", 10)}, b.Context()
	return func() func(string) {
		reqs, results := make([]ports.TakeRequest, 1), make([]ports.TakeResult, 1)
		return func(key string) {
			reqs[0] = ports.TakeRequest{Key: domain.BucketKey(key), Limits: limits, Cost: 1}
			store.TakeMany(ctx, reqs, results)
		}
	}
}

func goLimiter(b *testing.B) func() func(string) {
	store, err := memorystore.New(&memorystore.Config{Tokens: 10, Interval: 2 * time.Second})
	require.NoError(b, err)
	ctx := b.Context()
	b.Cleanup(func() { require.NoError(b, store.Close(ctx)) })
	return func() func(string) {
		return func(key string) { _, _, _, _, _ = store.Take(ctx, key) }
	}
}

func syncMapOfLimiters(*testing.B) func() func(string) {
	var limiters sync.Map
	take := func(key string) {
		l, ok := limiters.Load(key)
		if !ok {
			l, _ = limiters.LoadOrStore(key, rate.NewLimiter(5, 10))
		}
		l.(*rate.Limiter).Allow()
	}
	return func() func(string) { return take }
}

// BenchmarkMillionClients takes one token of each of a million new clients and reports what each occupies, its key
// included.
func BenchmarkMillionClients(b *testing.B) {
	const clients = 1_000_000
	limits := []domain.Limit{mustLimit(b, "default", "1/h", 10)}
	for b.Loop() {
		store, err := memstore.New(memstore.DefaultConfig())
		require.NoError(b, err)
		before := heapInUse()
		reqs, results := make([]ports.TakeRequest, 1), make([]ports.TakeResult, 1)
		for i := range clients {
			reqs[0] = ports.TakeRequest{Key: domain.BucketKey(fmt.Sprintf("default:ip=10.%03d.%03d.%03d", i>>16, i>>8&255, i&255)), Limits: limits, Cost: 1}
			store.TakeMany(b.Context(), reqs, results)
		}
		b.ReportMetric(float64(heapInUse()-before)/clients, "B/client")
		require.Equal(b, clients, store.Stats().Buckets)
		require.NoError(b, store.Close())
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/clients, "ns/client")
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
