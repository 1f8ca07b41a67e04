package app_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// farStore is a store at a distance: a call takes time on the way there and on the way back, and is decided between
// the two. All time is the test's.
type farStore struct {
	now         time.Duration // by the caller's clock
	there, back time.Duration
	buckets     map[domain.BucketKey]map[string]domain.Bucket
	asked       int
	onCall      func() // runs after the decision, while the reply is under way; nil: nothing
}

func newFarStore() *farStore {
	return &farStore{now: time.Hour, buckets: map[domain.BucketKey]map[string]domain.Bucket{}}
}

func (f *farStore) clock() time.Duration { return f.now }

// storeTime maps the caller's clock to the store's, which has another zero.
func (f *farStore) storeTime() domain.Instant {
	return domain.Instant(1_700_000_000_000_000 + f.now.Microseconds())
}

func (f *farStore) load(k domain.BucketKey, limits []domain.Limit) []domain.Bucket {
	out := make([]domain.Bucket, len(limits))
	for i := range limits {
		out[i] = f.buckets[k][limits[i].Name()]
	}
	return out
}

func (f *farStore) TakeMany(_ context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	f.now += f.there
	for i := range reqs {
		f.asked++
		r := &reqs[i]
		state := f.load(r.Key, r.Limits)
		verdict, write := domain.Apply(r.Op, r.Cost, r.Limits, state, f.storeTime())
		if write {
			if f.buckets[r.Key] == nil {
				f.buckets[r.Key] = map[string]domain.Bucket{}
			}
			for j := range r.Limits {
				f.buckets[r.Key][r.Limits[j].Name()] = state[j]
			}
		}
		results[i] = ports.TakeResult{Verdict: verdict, Now: f.storeTime(), Store: domain.StoreRedis, Buckets: state}
	}
	if f.onCall != nil {
		f.onCall()
	}
	f.now += f.back
}

func newShortcut(t require.TestingT, far *farStore) *app.Shortcut {
	s, err := app.NewShortcut(app.ShortcutConfig{MaxEntries: 1000, MaxAge: time.Second}, far, far.clock)
	require.NoError(t, err)
	return s
}

func mustLimit(t require.TestingT, name, rate string, capacity domain.Tokens) domain.Limit {
	refill, per, err := domain.ParseRate(rate)
	require.NoError(t, err)
	l, err := domain.NewLimit(name, capacity, refill, per)
	require.NoError(t, err)
	return l
}

// Whatever happened before, an answer of the shortcut is the one that the store would have given at that moment,
// and its wait is the store's or longer by what a call takes.
func TestShortcut_givesTheVerdictOfTheStore(t *testing.T) {
	total, answered := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		far := newFarStore()
		s := newShortcut(t, far)
		defer s.Close()
		sets := [][]domain.Limit{
			{mustLimit(t, "burst", "5/s", 10)},
			{mustLimit(t, "burst", "50/s", 10)},
			{mustLimit(t, "burst", "7/s", 4), mustLimit(t, "daily", "1000/24h", 30)},
		}
		longestTrip := time.Duration(0)
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			far.now += time.Duration(rapid.IntRange(0, 300_000).Draw(t, "wait_us")) * time.Microsecond
			far.there = time.Duration(rapid.IntRange(0, 30_000).Draw(t, "there_us")) * time.Microsecond
			far.back = time.Duration(rapid.IntRange(0, 30_000).Draw(t, "back_us")) * time.Microsecond
			longestTrip = max(longestTrip, far.there+far.back)
			req := ports.TakeRequest{
				Op:     rapid.SampledFrom([]domain.Op{0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}).Draw(t, "op"),
				Key:    rapid.SampledFrom([]domain.BucketKey{"p:ip=a", "p:ip=b"}).Draw(t, "key"),
				Limits: sets[rapid.SampledFrom([]int{0, 0, 0, 1, 2, 2}).Draw(t, "limits")],
				Cost:   domain.Tokens(rapid.IntRange(1, 12).Draw(t, "cost")),
			}
			before := far.asked
			result := ports.Take(t.Context(), s, req)
			require.NoError(t, result.Err)
			total++
			if far.asked > before {
				require.Equal(t, domain.StoreRedis, result.Store)
				continue
			}
			answered++
			require.Equal(t, domain.StoreShortcut, result.Store)
			require.Equal(t, domain.Denied, result.Verdict)
			require.LessOrEqual(t, result.Now, far.storeTime())
			state := far.load(req.Key, req.Limits)
			verdict, _ := domain.Apply(req.Op, req.Cost, req.Limits, state, far.storeTime())
			require.Equal(t, domain.Denied, verdict, "the store would have allowed it")
			for i := range req.Limits {
				want := req.Limits[i].RetryAfter(state[i], req.Cost, far.storeTime())
				got := req.Limits[i].RetryAfter(result.Buckets[i], req.Cost, result.Now)
				if want == domain.Never {
					require.Equal(t, domain.Never, got)
					continue
				}
				require.GreaterOrEqual(t, got, want, "waiting so long would not be enough")
				require.LessOrEqual(t, got, want+longestTrip+time.Millisecond, "the wait is longer than a call explains")
			}
		}
	})
	require.Greater(t, answered, total/20, "too few of %d steps used the shortcut to show anything", total)
}

func deniedAt(t *testing.T, far *farStore, s *app.Shortcut, l []domain.Limit) ports.TakeRequest {
	t.Helper()
	req := ports.TakeRequest{Key: "p:ip=a", Limits: l, Cost: 1}
	for ports.Take(t.Context(), s, req).Verdict == domain.Allowed {
		require.Less(t, far.asked, 100)
	}
	return req
}

func TestShortcut_floodCostsTheStoreNothing(t *testing.T) {
	far := newFarStore()
	s := newShortcut(t, far)
	defer s.Close()
	req := deniedAt(t, far, s, []domain.Limit{mustLimit(t, "burst", "1/h", 10)})
	asked := far.asked
	for range 1000 {
		require.Equal(t, domain.StoreShortcut, ports.Take(t.Context(), s, req).Store)
	}
	assert.Equal(t, asked, far.asked)
	assert.EqualValues(t, 1000, s.Hits())
}

func TestShortcut_forgetsWhatMayHaveChanged(t *testing.T) {
	hour := []domain.Limit{mustLimit(t, "burst", "1/h", 10)}
	for name, change := range map[string]func(far *farStore, s *app.Shortcut, req *ports.TakeRequest){
		"refund": func(_ *farStore, s *app.Shortcut, req *ports.TakeRequest) {
			ports.Take(t.Context(), s, ports.TakeRequest{Op: domain.OpRefund, Key: req.Key, Limits: req.Limits, Cost: 1})
		},
		"charge": func(_ *farStore, s *app.Shortcut, req *ports.TakeRequest) {
			ports.Take(t.Context(), s, ports.TakeRequest{Op: domain.OpCharge, Key: req.Key, Limits: req.Limits, Cost: 1})
		},
		"reset": func(_ *farStore, s *app.Shortcut, req *ports.TakeRequest) {
			ports.Take(t.Context(), s, ports.TakeRequest{Op: domain.OpReset, Key: req.Key, Limits: req.Limits})
		},
		"another limit": func(_ *farStore, _ *app.Shortcut, req *ports.TakeRequest) {
			req.Limits = []domain.Limit{mustLimit(t, "burst", "2/h", 10)}
		},
		"age":    func(far *farStore, _ *app.Shortcut, _ *ports.TakeRequest) { far.now += time.Second + time.Microsecond },
		"forget": func(_ *farStore, s *app.Shortcut, _ *ports.TakeRequest) { s.Forget() },
		"refund earlier in the same call": func(_ *farStore, s *app.Shortcut, req *ports.TakeRequest) {
			results := make([]ports.TakeResult, 2)
			s.TakeMany(t.Context(), []ports.TakeRequest{{Op: domain.OpRefund, Key: req.Key, Limits: req.Limits, Cost: 1}, *req}, results)
			assert.Equal(t, domain.Allowed, results[1].Verdict)
		},
	} {
		far := newFarStore()
		s := newShortcut(t, far)
		req := deniedAt(t, far, s, hour)
		require.Equal(t, domain.StoreShortcut, ports.Take(t.Context(), s, req).Store)
		change(far, s, &req)
		assert.Equal(t, domain.StoreRedis, ports.Take(t.Context(), s, req).Store, "after %s", name)
		s.Close()
	}
}

func TestShortcut_refundDuringADenialVoidsIt(t *testing.T) {
	far := newFarStore()
	s := newShortcut(t, far)
	defer s.Close()
	hour := []domain.Limit{mustLimit(t, "burst", "1/h", 10)}
	req := ports.TakeRequest{Key: "p:ip=a", Limits: hour, Cost: 11}
	refund := ports.TakeRequest{Op: domain.OpRefund, Key: req.Key, Limits: hour, Cost: 1}
	far.onCall = func() { // the denial's reply is under way when the refund is done and answered
		far.onCall = nil
		ports.Take(t.Context(), s, refund)
	}
	require.Equal(t, domain.StoreRedis, ports.Take(t.Context(), s, req).Store)
	assert.Equal(t, domain.StoreRedis, ports.Take(t.Context(), s, req).Store, "the denial is older than the refund")
}

func TestShortcut_answersItsPartOfALargerCall(t *testing.T) {
	far := newFarStore()
	s := newShortcut(t, far)
	defer s.Close()
	denied := deniedAt(t, far, s, []domain.Limit{mustLimit(t, "burst", "1/h", 10)})
	fresh := denied
	reqs := make([]ports.TakeRequest, 9)
	for i := range reqs {
		if reqs[i] = denied; i%3 == 1 {
			fresh.Key = domain.BucketKey(fmt.Sprintf("p:ip=fresh-%d", i))
			reqs[i] = fresh
		}
	}
	asked := far.asked
	results := make([]ports.TakeResult, len(reqs))
	s.TakeMany(t.Context(), reqs, results)
	assert.Equal(t, 3, far.asked-asked)
	for i, r := range results {
		require.NoError(t, r.Err)
		if i%3 == 1 {
			assert.Equal(t, domain.Allowed, r.Verdict, "slot %d", i)
		} else {
			assert.Equal(t, domain.StoreShortcut, r.Store, "slot %d", i)
		}
	}
}

func TestShortcutConfig_reportsEveryViolation(t *testing.T) {
	err := app.ShortcutConfig{MaxEntries: -1}.Validate()
	require.ErrorContains(t, err, "VELOCITY_SHORTCUT_MAX_ENTRIES: -1")
	require.ErrorContains(t, err, "VELOCITY_SHORTCUT_MAX_AGE: 0s")
}
