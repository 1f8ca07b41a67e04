package app_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const fakeNow domain.Instant = 1_700_000_000_000_000

// fakeStore keeps buckets in a map, or fails.
type fakeStore struct {
	mu      sync.Mutex
	buckets map[domain.BucketKey]map[string]domain.Bucket
	calls   int
	ops     []domain.Op                    // of every request
	fail    func(*ports.TakeRequest) error // nil: never
}

func (f *fakeStore) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	gone := ctx.Err()
	for i := range reqs {
		f.ops = append(f.ops, reqs[i].Op)
		if gone != nil {
			results[i] = ports.TakeResult{Err: fmt.Errorf("%w: %w", ports.ErrUnavailable, gone)}
			continue
		}
		if f.fail != nil {
			if err := f.fail(&reqs[i]); err != nil {
				results[i] = ports.TakeResult{Err: err}
				continue
			}
		}
		state := make([]domain.Bucket, len(reqs[i].Limits))
		for j := range state {
			state[j] = f.buckets[reqs[i].Key][reqs[i].Limits[j].Name()]
		}
		verdict, write := domain.Apply(reqs[i].Op, reqs[i].Cost, reqs[i].Limits, state, fakeNow)
		if write {
			if f.buckets == nil {
				f.buckets = map[domain.BucketKey]map[string]domain.Bucket{}
			}
			if f.buckets[reqs[i].Key] == nil {
				f.buckets[reqs[i].Key] = map[string]domain.Bucket{}
			}
			for j := range state {
				f.buckets[reqs[i].Key][reqs[i].Limits[j].Name()] = state[j]
			}
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

// stage is a limiter of one policy (newStage: 3 tokens, 1/h) with everything around it faked.
type stage struct {
	*app.RateLimiter
	store, local *fakeStore
	observer     *fakeObserver
}

func newStage(t *testing.T, key domain.KeySource, mode domain.FailureMode) *stage {
	t.Helper()
	return stageOf(t, domain.Policy{
		Key: domain.Key{key}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3)}, OnStoreFailure: mode,
	})
}

// stageOf is a stage of this policy, which is the default one and open if it does not say otherwise.
func stageOf(t require.TestingT, p domain.Policy) *stage {
	if p.Name == "" {
		p.Name = domain.DefaultPolicyName
	}
	if p.OnStoreFailure == "" {
		p.OnStoreFailure = domain.FailOpen
	}
	policies, err := app.NewSinglePolicy(p)
	require.NoError(t, err)
	s := &stage{store: &fakeStore{}, local: &fakeStore{}, observer: &fakeObserver{}}
	s.RateLimiter = app.NewRateLimiter(s.store, s.local, policies, s.observer)
	return s
}

var (
	byAddress = domain.KeySource{Kind: domain.SourceIP}
	byHeader  = domain.KeySource{Kind: domain.SourceHeader, Name: "x-client-id"}
)
