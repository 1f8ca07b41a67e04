package memorypeer_test

import (
	"math/rand/v2"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/bench/internal/memorypeer"
	"github.com/velocity-limiter/velocity/bench/internal/peer"
)

// BenchmarkPeers takes one token of one of 100,000 known clients, in random order, from each limiter in the same run:
// 5 tokens a second, capacity 10. No key is the very string that the limiter holds.
func BenchmarkPeers(b *testing.B) {
	const clients = 100_000
	stored, asked := clientKeys(clients), clientKeys(clients)
	for _, p := range memorypeer.All() {
		b.Run(p.Name, func(b *testing.B) {
			limiter, err := p.Open(peer.Limit{Tokens: 5, Per: time.Second, Capacity: 10}, clients)
			require.NoError(b, err)
			b.Cleanup(func() { require.NoError(b, limiter.Shut()) })
			ctx, fill := b.Context(), limiter.NewTake()
			for _, key := range stored {
				_, err := fill(ctx, key)
				require.NoError(b, err)
			}
			runtime.GC()
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				take, random := limiter.NewTake(), rand.New(rand.NewPCG(1, rand.Uint64()))
				for pb.Next() {
					_, _ = take(ctx, asked[random.Uint32N(clients)])
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
