package app_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// quickStore answers every take alike, in the memory of the slots, as a store on the hot path does.
type quickStore struct {
	verdict domain.Verdict
	bucket  domain.Bucket
}

func (q *quickStore) TakeMany(_ context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	for i := range reqs {
		r := &results[i]
		r.Err, r.Verdict, r.Now, r.Store = nil, q.verdict, fakeNow, domain.StoreRedis
		r.Buckets = r.Buckets[:0]
		for range reqs[i].Limits {
			r.Buckets = append(r.Buckets, q.bucket)
		}
	}
}

type deaf struct{}

func (deaf) Decided(*domain.Request, *domain.Decision)           {}
func (deaf) StoreFailed(_ string, _ domain.FailureMode, _ error) {}

// hotPath returns the call of a caller who keeps its slots, as the doors do.
func hotPath(tb testing.TB, q *quickStore) func() {
	tb.Helper()
	limit, err := domain.NewLimit("burst", 10, 1, time.Hour)
	require.NoError(tb, err)
	q.bucket = limit.Full(fakeNow)
	if q.verdict == domain.Denied {
		q.bucket.Credits = 0
	}
	policies, err := app.NewSinglePolicy(domain.Policy{
		Name: domain.DefaultPolicyName, Key: domain.Key{byHeader}, Limits: []domain.Limit{limit}, OnStoreFailure: domain.FailOpen,
	})
	require.NoError(tb, err)
	start := time.Now() //nolint:forbidigo // what the clock costs is part of the measurement
	shortcut, err := app.NewShortcut(app.ShortcutConfig{MaxEntries: 1024, MaxAge: time.Minute}, q,
		func() time.Duration { return time.Since(start) }) //nolint:forbidigo // as above
	require.NoError(tb, err)
	tb.Cleanup(shortcut.Close)
	limiter := app.NewRateLimiter(shortcut, q, policies, deaf{})
	reqs, answers := make([]domain.Request, 1), make([]ports.Answer, 1)
	reqs[0] = domain.Request{Cost: 1, Lookup: func(domain.KeySource) (string, error) { return "client-000042", nil }}
	return func() { limiter.DecideMany(tb.Context(), reqs, answers) }
}

func BenchmarkDecideMany(b *testing.B) {
	for name, verdict := range map[string]domain.Verdict{"allowed": domain.Allowed, "shortcut": domain.Denied} {
		b.Run(name, func(b *testing.B) {
			decide := hotPath(b, &quickStore{verdict: verdict})
			decide()
			b.ReportAllocs()
			for b.Loop() {
				decide()
			}
		})
	}
}
