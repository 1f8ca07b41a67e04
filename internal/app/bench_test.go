package app_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/app/denialcache"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// quickStore gives every take the same answer, in the memory of the slots, as a store on the hot path does.
type quickStore struct {
	verdict domain.Verdict
	bucket  domain.State
}

func (q *quickStore) TakeMany(_ context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	for i := range reqs {
		r := &results[i]
		r.Err, r.Verdict, r.Now, r.Store = nil, q.verdict, fakeNow, decision.StoreRedis
		r.States = r.States[:0]
		for range reqs[i].Limits {
			r.States = append(r.States, q.bucket)
		}
	}
}

type nopObserver struct{}

func (nopObserver) Decided(*policy.Request, *decision.Decision)         {}
func (nopObserver) StoreFailed(_ string, _ policy.FailureMode, _ error) {}

// hotPath returns the call of a caller that reuses its slots, as the inbound adapters do.
func hotPath(tb testing.TB, q *quickStore) func() {
	tb.Helper()
	return hotPathOf(tb, q, false)
}

// hotPathOf is hotPath with a limit that all clients share, too.
func hotPathOf(tb testing.TB, q *quickStore, shared bool) func() {
	tb.Helper()
	limit, err := domain.NewBucket("burst", 10, 1, time.Hour)
	require.NoError(tb, err)
	q.bucket = limit.Full(fakeNow)
	if q.verdict == domain.Denied {
		q.bucket.Amount = 0
	}
	p := policy.Policy{
		Name: policy.DefaultName, Key: clientkey.Key{byHeader}, Limits: []domain.Limit{limit}, OnStoreFailure: policy.FailOpen,
	}
	if shared {
		p.Limits = append(p.Limits, mustLimit(tb, "all", "1/h", 10))
		p.LimitKeys = map[string]clientkey.Key{"all": {{Kind: clientkey.SourceGlobal}}}
	}
	policies, err := app.NewSinglePolicy(p)
	require.NoError(tb, err)
	start := time.Now()
	cache, err := denialcache.New(denialcache.Config{MaxEntries: 1024, MaxAge: time.Minute}, q,
		func() time.Duration { return time.Since(start) })
	require.NoError(tb, err)
	tb.Cleanup(cache.Close)
	limiter := app.NewRateLimiter(cache, q, policies, nopObserver{})
	reqs, answers := make([]policy.Request, 1), make([]ports.Answer, 1)
	reqs[0] = policy.Request{Cost: 1, Lookup: func(clientkey.Source) (string, error) { return "client-000042", nil }}
	return func() { limiter.DecideMany(tb.Context(), reqs, answers) }
}

func BenchmarkDecideMany(b *testing.B) {
	for name, verdict := range map[string]domain.Verdict{"allowed": domain.Allowed, "known denied": domain.Denied} {
		for _, shared := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/shared=%v", name, shared), func(b *testing.B) {
				decide := hotPathOf(b, &quickStore{verdict: verdict}, shared)
				decide()
				b.ReportAllocs()
				for b.Loop() {
					decide()
				}
			})
		}
	}
}
