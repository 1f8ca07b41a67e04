package redisstore_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

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
