package app_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const fakeNow domain.Instant = 1_700_000_000_000_000

// fakeStore keeps buckets in a map, or fails.
type fakeStore struct {
	mu      sync.Mutex
	buckets map[clientkey.BucketKey]map[string]domain.State
	calls   int
	ops     []domain.Op                             // of every request
	fail    func(*ports.TakeRequest) error          // nil: never
	clock   func(*ports.TakeRequest) domain.Instant // nil: fakeNow
	permits map[clientkey.BucketKey]map[string]*domain.Permits
	answer  func(*ports.TakeRequest) error // of requests that were carried out; nil: never an error
}

// permitsOf returns the permits of the request's concurrency limits, as domain.Apply takes them.
func (f *fakeStore) permitsOf(req *ports.TakeRequest) []*domain.Permits {
	list := make([]*domain.Permits, len(req.Limits))
	for i := range req.Limits {
		if req.Limits[i].Kind() != domain.KindConcurrency {
			continue
		}
		if f.permits == nil {
			f.permits = map[clientkey.BucketKey]map[string]*domain.Permits{}
		}
		if f.permits[req.Key] == nil {
			f.permits[req.Key] = map[string]*domain.Permits{}
		}
		name := req.Limits[i].Name()
		if f.permits[req.Key][name] == nil {
			f.permits[req.Key][name] = new(domain.Permits)
		}
		list[i] = f.permits[req.Key][name]
	}
	return list
}

func listed(permits []*domain.Permits) [][]domain.Permit {
	lists := make([][]domain.Permit, len(permits))
	for i, p := range permits {
		if p != nil {
			lists[i] = p.List(nil)
		}
	}
	return lists
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
		state := make([]domain.State, len(reqs[i].Limits))
		for j := range state {
			state[j] = f.buckets[reqs[i].Key][reqs[i].Limits[j].Name()]
		}
		now := fakeNow
		if f.clock != nil {
			now = f.clock(&reqs[i])
		}
		permits := f.permitsOf(&reqs[i])
		verdict, write := domain.Apply(reqs[i].Operation(), reqs[i].Limits, state, permits, now)
		if write {
			if f.buckets == nil {
				f.buckets = map[clientkey.BucketKey]map[string]domain.State{}
			}
			if f.buckets[reqs[i].Key] == nil {
				f.buckets[reqs[i].Key] = map[string]domain.State{}
			}
			for j := range state {
				f.buckets[reqs[i].Key][reqs[i].Limits[j].Name()] = state[j]
			}
		}
		if f.answer != nil {
			if err := f.answer(&reqs[i]); err != nil {
				results[i] = ports.TakeResult{Err: err}
				continue
			}
		}
		results[i] = ports.TakeResult{
			Verdict: verdict, Now: now, Store: decision.StoreRedis, States: append(results[i].States[:0], state...),
		}
		if reqs[i].Op == domain.OpList {
			results[i].Permits = listed(permits)
		}
	}
}

// asked returns the number of calls.
func (f *fakeStore) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func (f *fakeStore) keys() []clientkey.BucketKey {
	f.mu.Lock()
	defer f.mu.Unlock()
	var keys []clientkey.BucketKey
	for k := range f.buckets {
		keys = append(keys, k)
	}
	return keys
}

// fakeObserver records its calls.
type fakeObserver struct {
	mu        sync.Mutex
	decisions []decision.Decision
	failures  []policy.FailureMode
	counts    map[string]int // of permits and waits
}

func (o *fakeObserver) add(what string, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.counts == nil {
		o.counts = map[string]int{}
	}
	o.counts[what] += n
}

func (o *fakeObserver) count(what string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.counts[what]
}

// withoutMode returns how many failures were reported that no failure mode answered.
func (o *fakeObserver) withoutMode() (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, mode := range o.failures {
		if mode == "" {
			n++
		}
	}
	return n
}

func (o *fakeObserver) Waiting(_ string, change int)               { o.add("waiting", change) }
func (o *fakeObserver) Waited(_ string, outcome ports.WaitOutcome) { o.add(string(outcome), 1) }
func (o *fakeObserver) PermitsHeld(_ string, change int)           { o.add("held", change) }
func (o *fakeObserver) PermitExpired(string)                       { o.add("expired", 1) }
func (o *fakeObserver) DebtReached(string)                         { o.add("debt", 1) }

func (o *fakeObserver) Decided(_ *policy.Request, d *decision.Decision) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.decisions = append(o.decisions, *d)
}

func (o *fakeObserver) StoreFailed(_ string, mode policy.FailureMode, _ error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failures = append(o.failures, mode)
}

// fixture is a limiter of one policy (newFixture: 3 tokens, 1/h) between fakes.
type fixture struct {
	*app.RateLimiter
	store, local *fakeStore
	observer     *fakeObserver
}

// ticks has the stores follow the clock of a synctest bubble.
func (s *fixture) ticks() {
	now := func(*ports.TakeRequest) domain.Instant { return domain.InstantOf(time.Now()) }
	s.store.clock, s.local.clock = now, now
}

func newFixture(t *testing.T, key clientkey.Source, mode policy.FailureMode) *fixture {
	t.Helper()
	return fixtureOf(t, policy.Policy{
		Key: clientkey.Key{key}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3)}, OnStoreFailure: mode,
	})
}

// fixtureOf returns a fixture of this policy. An empty name is "default", an empty failure mode "open".
func fixtureOf(t require.TestingT, p policy.Policy) *fixture {
	if p.Name == "" {
		p.Name = policy.DefaultName
	}
	if p.OnStoreFailure == "" {
		p.OnStoreFailure = policy.FailOpen
	}
	policies, err := app.NewSinglePolicy(p)
	require.NoError(t, err)
	s := &fixture{store: &fakeStore{}, local: &fakeStore{}, observer: &fakeObserver{}}
	s.RateLimiter = app.NewRateLimiter(s.store, s.local, policies, s.observer)
	return s
}

var (
	byAddress = clientkey.Source{Kind: clientkey.SourceIP}
	byHeader  = clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client-id"}
)

func mustLimit(t require.TestingT, name, rate string, capacity domain.Tokens) domain.Limit {
	refill, per, err := domain.ParseRate(rate)
	require.NoError(t, err)
	l, err := domain.NewBucket(name, capacity, refill, per)
	require.NoError(t, err)
	return l
}
