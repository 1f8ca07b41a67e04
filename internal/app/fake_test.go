package app_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const fakeNow domain.Instant = 1_700_000_000_000_000

// fakeStore keeps buckets of single-limit policies in a map, or fails.
type fakeStore struct {
	mu      sync.Mutex
	buckets map[domain.BucketKey]domain.Bucket
	calls   int
	fail    func(*ports.TakeRequest) error // nil: never
}

func (f *fakeStore) TakeMany(_ context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	for i := range reqs {
		if f.fail != nil {
			if err := f.fail(&reqs[i]); err != nil {
				results[i] = ports.TakeResult{Err: err}
				continue
			}
		}
		state := []domain.Bucket{f.buckets[reqs[i].Key]}
		verdict, write := domain.Apply(reqs[i].Op, reqs[i].Cost, reqs[i].Limits, state, fakeNow)
		if write {
			if f.buckets == nil {
				f.buckets = map[domain.BucketKey]domain.Bucket{}
			}
			f.buckets[reqs[i].Key] = state[0]
		}
		results[i] = ports.TakeResult{
			Verdict: verdict, Now: fakeNow, Store: domain.StoreRedis, Buckets: append(results[i].Buckets[:0], state...),
		}
	}
}

func (f *fakeStore) keys() []domain.BucketKey {
	f.mu.Lock()
	defer f.mu.Unlock()
	var keys []domain.BucketKey
	for k := range f.buckets {
		keys = append(keys, k)
	}
	return keys
}

// fakeObserver records what it is told.
type fakeObserver struct {
	mu        sync.Mutex
	decisions []domain.Decision
	failures  []domain.FailureMode
}

func (o *fakeObserver) Decided(_ *domain.Request, d *domain.Decision) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.decisions = append(o.decisions, *d)
}

func (o *fakeObserver) StoreFailed(_ string, mode domain.FailureMode, _ error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failures = append(o.failures, mode)
}

// stage is a limiter of one policy (3 tokens, 1/h) with everything around it faked.
type stage struct {
	*app.RateLimiter
	store, local *fakeStore
	observer     *fakeObserver
}

func newStage(t *testing.T, key domain.KeySource, mode domain.FailureMode) *stage {
	t.Helper()
	refill, per, err := domain.ParseRate("1/h")
	require.NoError(t, err)
	limit, err := domain.NewLimit("burst", 3, refill, per)
	require.NoError(t, err)
	policies, err := app.NewSinglePolicy(domain.Policy{
		Name: domain.DefaultPolicyName, Key: domain.Key{key}, Limits: []domain.Limit{limit}, OnStoreFailure: mode,
	})
	require.NoError(t, err)
	s := &stage{store: &fakeStore{}, local: &fakeStore{}, observer: &fakeObserver{}}
	s.RateLimiter = app.NewRateLimiter(s.store, s.local, policies, s.observer)
	return s
}

var (
	byAddress = domain.KeySource{Kind: domain.SourceIP}
	byHeader  = domain.KeySource{Kind: domain.SourceHeader, Name: "x-client-id"}
)
