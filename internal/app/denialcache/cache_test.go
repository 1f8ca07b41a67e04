package denialcache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/app/denialcache"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// remoteStore is a store whose calls take time: there to reach it and back for the reply. It decides between the two, and
// the test sets all times.
type remoteStore struct {
	now         time.Duration // by the caller's clock
	there, back time.Duration
	buckets     map[clientkey.BucketKey]map[string]domain.State
	permits     map[clientkey.BucketKey]map[string]*domain.Permits
	asked       int
	onCall      func() // runs after the decision, before the reply arrives; may be nil
}

func newRemoteStore() *remoteStore {
	return &remoteStore{
		now: time.Hour, buckets: map[clientkey.BucketKey]map[string]domain.State{}, permits: map[clientkey.BucketKey]map[string]*domain.Permits{},
	}
}

// permitsOf returns the permits of the request's concurrency limits.
func (f *remoteStore) permitsOf(r *ports.TakeRequest) []*domain.Permits {
	list := make([]*domain.Permits, len(r.Limits))
	if f.permits[r.Key] == nil {
		f.permits[r.Key] = map[string]*domain.Permits{}
	}
	for i := range r.Limits {
		if name := r.Limits[i].Name(); r.Limits[i].Kind() == domain.KindConcurrency {
			if f.permits[r.Key][name] == nil {
				f.permits[r.Key][name] = new(domain.Permits)
			}
			list[i] = f.permits[r.Key][name]
		}
	}
	return list
}

func (f *remoteStore) clock() time.Duration { return f.now }

// storeTime converts the caller's clock to the store's, which has another zero.
func (f *remoteStore) storeTime() domain.Instant {
	return domain.Instant(1_700_000_000_000_000 + f.now.Microseconds())
}

func (f *remoteStore) load(k clientkey.BucketKey, limits []domain.Limit) []domain.State {
	out := make([]domain.State, len(limits))
	for i := range limits {
		out[i] = f.buckets[k][limits[i].Name()]
	}
	return out
}

func (f *remoteStore) TakeMany(_ context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	f.now += f.there
	for i := range reqs {
		f.asked++
		r := &reqs[i]
		state := f.load(r.Key, r.Limits)
		verdict, write := domain.Apply(r.Operation(), r.Limits, state, f.permitsOf(r), f.storeTime())
		if write {
			if f.buckets[r.Key] == nil {
				f.buckets[r.Key] = map[string]domain.State{}
			}
			for j := range r.Limits {
				f.buckets[r.Key][r.Limits[j].Name()] = state[j]
			}
		}
		results[i] = ports.TakeResult{Verdict: verdict, Now: f.storeTime(), Store: decision.StoreRedis, States: state}
	}
	if f.onCall != nil {
		f.onCall()
	}
	f.now += f.back
}

// maxAge is longer than a test takes: the cache drops entries of this age by the process's clock too, which a test cannot set.
const maxAge = time.Minute

func newCache(t require.TestingT, remote *remoteStore) *denialcache.Cache {
	c, err := denialcache.New(denialcache.Config{MaxEntries: 100_000, MaxAge: maxAge}, remote, remote.clock)
	require.NoError(t, err)
	return c
}

func mustLimit(t require.TestingT, name, rate string, capacity domain.Tokens) domain.Limit {
	refill, per, err := domain.ParseRate(rate)
	require.NoError(t, err)
	l, err := domain.NewBucket(name, capacity, refill, per)
	require.NoError(t, err)
	return l
}

func mustQuota(t require.TestingT, name string, quota domain.Tokens, period string) domain.Limit {
	periods, err := calendar.Parse(period, "", "")
	require.NoError(t, err)
	l, err := domain.NewQuota(name, quota, periods)
	require.NoError(t, err)
	return l
}

func mustConcurrent(t require.TestingT, name string, n domain.Tokens) domain.Limit {
	l, err := domain.NewConcurrency(name, n, time.Second)
	require.NoError(t, err)
	return l
}

func mustCost(t require.TestingT, l domain.Limit, cost domain.Tokens) domain.Limit {
	l, err := l.WithCost(cost)
	require.NoError(t, err)
	return l
}

// An answer of the cache is the one that the store would have given at that moment, whatever happened before. Its wait is
// at least the store's, and longer by the time of a call at most.
func TestCache_givesTheVerdictOfTheStore(t *testing.T) {
	total, answered := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		remote := newRemoteStore()
		c, err := denialcache.New(denialcache.Config{MaxEntries: 1000, MaxAge: time.Second}, remote, remote.clock)
		require.NoError(t, err)
		defer c.Close()
		sets := [][]domain.Limit{
			{mustLimit(t, "burst", "5/s", 10)},
			{mustLimit(t, "burst", "50/s", 10)},
			{mustLimit(t, "burst", "7/s", 4), mustLimit(t, "daily", "1000/24h", 30)},
			{mustQuota(t, "second", 10, "1s")},
			{mustCost(t, mustLimit(t, "burst", "2/s", 4), 2), mustQuota(t, "daily", 60, "3s"), mustCost(t, mustQuota(t, "second", 3, "1s"), 1)},
			{mustLimit(t, "burst", "20/s", 6), mustConcurrent(t, "parallel", 3)},
		}
		longestTrip := time.Duration(0)
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			remote.now += time.Duration(rapid.OneOf(rapid.IntRange(0, 20_000), rapid.IntRange(0, 300_000)).Draw(t, "wait_us")) * time.Microsecond
			remote.there = time.Duration(rapid.IntRange(0, 30_000).Draw(t, "there_us")) * time.Microsecond
			remote.back = time.Duration(rapid.IntRange(0, 30_000).Draw(t, "back_us")) * time.Microsecond
			longestTrip = max(longestTrip, remote.there+remote.back)
			req := ports.TakeRequest{
				Op:      rapid.SampledFrom([]domain.Op{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7}).Draw(t, "op"),
				Key:     rapid.SampledFrom([]clientkey.BucketKey{"p:ip=a", "p:ip=b"}).Draw(t, "key"),
				Limits:  sets[rapid.SampledFrom([]int{0, 0, 0, 1, 2, 2, 3, 3, 4, 4, 5, 5}).Draw(t, "limits")],
				Cost:    domain.Tokens(rapid.IntRange(1, 12).Draw(t, "cost")),
				Permit:  rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "permit"),
				MaxWait: time.Duration(rapid.SampledFrom([]int{0, 0, 0, 0, 0, 0, 20, 150, 2000}).Draw(t, "max_wait_ms")) * time.Millisecond,
			}
			before := remote.asked
			result := ports.Take(t.Context(), c, req)
			require.NoError(t, result.Err)
			total++
			if remote.asked > before {
				require.Equal(t, decision.StoreRedis, result.Store)
				continue
			}
			answered++
			require.Equal(t, decision.StoreShortcut, result.Store)
			require.Equal(t, domain.Denied, result.Verdict)
			require.LessOrEqual(t, result.Now, remote.storeTime())
			state := remote.load(req.Key, req.Limits)
			verdict, _ := domain.Apply(req.Operation(), req.Limits, state, remote.permitsOf(&req), remote.storeTime())
			require.Equal(t, domain.Denied, verdict, "the store would have allowed it")
			for i := range req.Limits {
				if req.Limits[i].Kind() == domain.KindConcurrency {
					require.GreaterOrEqual(t, req.Limits[i].ResetAfter(result.States[i], result.Now), time.Duration(0))
					continue // how many are held now is not known
				}
				want := req.Limits[i].RetryAfter(state[i], req.Cost, req.MaxWait, remote.storeTime())
				got := req.Limits[i].RetryAfter(result.States[i], req.Cost, req.MaxWait, result.Now)
				if want == domain.Never {
					require.Equal(t, domain.Never, got)
					continue
				}
				require.GreaterOrEqual(t, got, want, "waiting that long would not be enough")
				require.LessOrEqual(t, got, want+longestTrip+time.Millisecond, "the wait is longer by more than a call takes")
			}
		}
	})
	require.Greater(t, answered, total/20, "the cache answered too few of %d steps", total)
}

// Anybody may release a permit, so only the store knows whether one is free.
func TestCache_deniesNothingForWantOfAPermit(t *testing.T) {
	remote := newRemoteStore()
	c := newCache(t, remote)
	defer c.Close()
	limits := []domain.Limit{mustLimit(t, "burst", "1/h", 3), mustConcurrent(t, "parallel", 1)}
	take := func(permit string) ports.TakeResult {
		return ports.Take(t.Context(), c, ports.TakeRequest{Key: "p:ip=a", Limits: limits, Cost: 1, Permit: permit})
	}
	require.Equal(t, domain.Allowed, take("a").Verdict)
	for range 3 {
		r := take("b")
		require.Equal(t, domain.Denied, r.Verdict)
		require.Equal(t, decision.StoreRedis, r.Store)
	}
	assert.Zero(t, c.Len(), "such a denial is not remembered")
	remote.permits["p:ip=a"]["parallel"] = new(domain.Permits) // another node has released it
	require.Equal(t, domain.Allowed, take("b").Verdict)
	remote.permits["p:ip=a"]["parallel"] = new(domain.Permits)
	require.Equal(t, domain.Allowed, take("c").Verdict)
	require.Equal(t, decision.StoreRedis, take("d").Store)
	r := take("d")
	assert.Equal(t, decision.StoreShortcut, r.Store, "the bucket is empty, whatever is held")
	assert.Equal(t, domain.Denied, r.Verdict)
}

// Who may wait borrows from the bucket what others are denied.
func TestCache_knowsWhatATakeThatMayWaitCanBorrow(t *testing.T) {
	remote := newRemoteStore()
	c := newCache(t, remote)
	defer c.Close()
	limits := []domain.Limit{mustLimit(t, "burst", "10/s", 1)}
	take := func(wait time.Duration) ports.TakeResult {
		return ports.Take(t.Context(), c, ports.TakeRequest{Key: "p:ip=a", Limits: limits, Cost: 1, MaxWait: wait})
	}
	require.Equal(t, domain.Allowed, take(0).Verdict)
	require.Equal(t, decision.StoreRedis, take(0).Store)
	require.Equal(t, decision.StoreShortcut, take(0).Store)
	require.Equal(t, decision.StoreShortcut, take(90*time.Millisecond).Store)
	r := take(100 * time.Millisecond)
	require.Equal(t, decision.StoreRedis, r.Store)
	require.Equal(t, domain.Allowed, r.Verdict)
	require.Equal(t, decision.StoreShortcut, take(150*time.Millisecond).Store, "the token of the next 100 ms is spent")
}

// A renewal gives nothing back, so a denial stays known; a release does.
func TestCache_forgetsDenialsOnReleaseButNotOnRenewal(t *testing.T) {
	remote := newRemoteStore()
	c := newCache(t, remote)
	defer c.Close()
	limits := []domain.Limit{mustLimit(t, "burst", "1/h", 1), mustConcurrent(t, "parallel", 5)}
	do := func(op domain.Op, cost domain.Tokens) ports.TakeResult {
		return ports.Take(t.Context(), c, ports.TakeRequest{Op: op, Key: "p:ip=a", Limits: limits, Cost: cost, Permit: "a"})
	}
	require.Equal(t, domain.Allowed, do(domain.OpTake, 1).Verdict)
	require.Equal(t, domain.Denied, do(domain.OpTake, 1).Verdict)
	require.Equal(t, domain.Allowed, do(domain.OpRenew, 0).Verdict)
	do(domain.OpList, 0)
	require.Equal(t, decision.StoreShortcut, do(domain.OpTake, 1).Store)
	require.Equal(t, domain.Allowed, do(domain.OpRelease, -1).Verdict)
	r := do(domain.OpTake, 1)
	assert.Equal(t, decision.StoreRedis, r.Store)
	assert.Equal(t, domain.Allowed, r.Verdict, "the release gave its token back")
}

// The cache asks the store again a little before the end, since its own clock may be slow.
func TestCache_deniesAQuotaUntilItsPeriodEnds(t *testing.T) {
	for _, l := range []domain.Limit{mustQuota(t, "short", 5, "10s"), mustCost(t, mustQuota(t, "short", 5, "10s"), 1)} {
		remote := newRemoteStore()
		c := newCache(t, remote)
		defer c.Close()
		start, end, _ := l.Quota().Periods().At(remote.storeTime())
		require.Equal(t, start, remote.storeTime())
		req := deniedAt(t, remote, c, []domain.Limit{l})
		asked := remote.asked
		remote.now += 9*time.Second + 980*time.Millisecond
		result := ports.Take(t.Context(), c, req)
		require.Equal(t, decision.StoreShortcut, result.Store)
		assert.Equal(t, domain.Denied, result.Verdict)
		assert.Equal(t, 20*time.Millisecond, l.RetryAfter(result.States[0], 1, 0, result.Now))
		assert.Equal(t, asked, remote.asked)

		remote.now += 20 * time.Millisecond
		require.Equal(t, end, remote.storeTime())
		result = ports.Take(t.Context(), c, req)
		assert.Equal(t, decision.StoreRedis, result.Store)
		assert.Equal(t, domain.Allowed, result.Verdict)
	}
}

// A cheap request costs a limit as much as an expensive one if the limit has a cost of its own.
func TestCache_countsTheLimitsOwnCost(t *testing.T) {
	remote := newRemoteStore()
	c := newCache(t, remote)
	defer c.Close()
	own := []domain.Limit{mustCost(t, mustLimit(t, "requests", "1/h", 5), 2), mustLimit(t, "tokens", "1/h", 100)}
	req := ports.TakeRequest{Key: "p:ip=a", Limits: own, Cost: 30}
	for _, want := range []domain.Verdict{domain.Allowed, domain.Allowed, domain.Denied} {
		require.Equal(t, want, ports.Take(t.Context(), c, req).Verdict)
	}
	req.Cost = 1
	assert.Equal(t, decision.StoreShortcut, ports.Take(t.Context(), c, req).Store, "1 is left, and 2 are taken")
	req.Limits = []domain.Limit{mustCost(t, mustLimit(t, "requests", "1/h", 5), 1), own[1]}
	result := ports.Take(t.Context(), c, req)
	assert.Equal(t, decision.StoreRedis, result.Store, "its cost has changed")
	assert.Equal(t, domain.Allowed, result.Verdict)
}

func deniedAt(t *testing.T, remote *remoteStore, c *denialcache.Cache, l []domain.Limit) ports.TakeRequest {
	t.Helper()
	req := ports.TakeRequest{Key: "p:ip=a", Limits: l, Cost: 1}
	for ports.Take(t.Context(), c, req).Verdict == domain.Allowed {
		require.Less(t, remote.asked, 100)
	}
	return req
}

func TestCache_floodCostsTheStoreNothing(t *testing.T) {
	remote := newRemoteStore()
	c := newCache(t, remote)
	defer c.Close()
	req := deniedAt(t, remote, c, []domain.Limit{mustLimit(t, "burst", "1/h", 10)})
	asked := remote.asked
	for range 1000 {
		require.Equal(t, decision.StoreShortcut, ports.Take(t.Context(), c, req).Store)
	}
	assert.Equal(t, asked, remote.asked)
	assert.EqualValues(t, 1000, c.Hits())
}

func TestCache_forgetsWhatMayHaveChanged(t *testing.T) {
	hour := []domain.Limit{mustLimit(t, "burst", "1/h", 10)}
	for name, change := range map[string]func(remote *remoteStore, c *denialcache.Cache, req *ports.TakeRequest){
		"refund": func(_ *remoteStore, c *denialcache.Cache, req *ports.TakeRequest) {
			ports.Take(t.Context(), c, ports.TakeRequest{Op: domain.OpRefund, Key: req.Key, Limits: req.Limits, Cost: 1})
		},
		"charge": func(_ *remoteStore, c *denialcache.Cache, req *ports.TakeRequest) {
			ports.Take(t.Context(), c, ports.TakeRequest{Op: domain.OpCharge, Key: req.Key, Limits: req.Limits, Cost: 1})
		},
		"reset": func(_ *remoteStore, c *denialcache.Cache, req *ports.TakeRequest) {
			ports.Take(t.Context(), c, ports.TakeRequest{Op: domain.OpReset, Key: req.Key, Limits: req.Limits})
		},
		"another limit": func(_ *remoteStore, _ *denialcache.Cache, req *ports.TakeRequest) {
			req.Limits = []domain.Limit{mustLimit(t, "burst", "2/h", 10)}
		},
		"age": func(remote *remoteStore, _ *denialcache.Cache, _ *ports.TakeRequest) {
			remote.now += maxAge + time.Microsecond
		},
		"undo": func(_ *remoteStore, c *denialcache.Cache, req *ports.TakeRequest) {
			ports.Take(t.Context(), c, ports.TakeRequest{Op: domain.OpUndo, Key: req.Key, Limits: req.Limits, Cost: 1})
		},
		"a quota of that name": func(_ *remoteStore, _ *denialcache.Cache, req *ports.TakeRequest) {
			req.Limits = []domain.Limit{mustQuota(t, "burst", 10, "hour")}
		},
		"clear": func(_ *remoteStore, c *denialcache.Cache, _ *ports.TakeRequest) { c.Clear() },
		"refund earlier in the same call": func(_ *remoteStore, c *denialcache.Cache, req *ports.TakeRequest) {
			results := make([]ports.TakeResult, 2)
			c.TakeMany(t.Context(), []ports.TakeRequest{{Op: domain.OpRefund, Key: req.Key, Limits: req.Limits, Cost: 1}, *req}, results)
			assert.Equal(t, domain.Allowed, results[1].Verdict)
		},
	} {
		remote := newRemoteStore()
		c := newCache(t, remote)
		req := deniedAt(t, remote, c, hour)
		require.Equal(t, decision.StoreShortcut, ports.Take(t.Context(), c, req).Store)
		change(remote, c, &req)
		assert.Equal(t, decision.StoreRedis, ports.Take(t.Context(), c, req).Store, "after %s", name)
		c.Close()
	}
}

func TestCache_remembersEachDenialForItsWholeAge(t *testing.T) {
	remote := newRemoteStore()
	c := newCache(t, remote)
	defer c.Close()
	req := deniedAt(t, remote, c, []domain.Limit{mustLimit(t, "burst", "1/h", 10)})
	for range 3 {
		remote.now += maxAge
		require.Equal(t, decision.StoreShortcut, ports.Take(t.Context(), c, req).Store)
		remote.now += time.Microsecond
		require.Equal(t, decision.StoreRedis, ports.Take(t.Context(), c, req).Store, "it is too old; the store denies again")
	}
}

// Keys share slots: denials of others, which are younger, make none older than its age count.
func TestCache_youngerDenialsOfOthersKeepNone(t *testing.T) {
	remote := newRemoteStore()
	c := newCache(t, remote)
	defer c.Close()
	req := deniedAt(t, remote, c, []domain.Limit{mustLimit(t, "burst", "1/h", 10)})
	remote.now += maxAge - time.Second
	for i := range 20_000 { // some five for each slot
		other := ports.TakeRequest{Key: clientkey.BucketKey(fmt.Sprintf("p:ip=other-%d", i)), Limits: req.Limits, Cost: 11}
		require.Equal(t, domain.Denied, ports.Take(t.Context(), c, other).Verdict)
	}
	require.Equal(t, decision.StoreShortcut, ports.Take(t.Context(), c, req).Store)
	remote.now += time.Second + time.Microsecond
	assert.Equal(t, decision.StoreRedis, ports.Take(t.Context(), c, req).Store)
}

func TestCache_refundDuringADenialVoidsIt(t *testing.T) {
	remote := newRemoteStore()
	c := newCache(t, remote)
	defer c.Close()
	hour := []domain.Limit{mustLimit(t, "burst", "1/h", 10)}
	req := ports.TakeRequest{Key: "p:ip=a", Limits: hour, Cost: 11}
	refund := ports.TakeRequest{Op: domain.OpRefund, Key: req.Key, Limits: hour, Cost: 1}
	remote.onCall = func() { // runs a whole refund before the reply of the denial arrives
		remote.onCall = nil
		ports.Take(t.Context(), c, refund)
	}
	require.Equal(t, decision.StoreRedis, ports.Take(t.Context(), c, req).Store)
	assert.Equal(t, decision.StoreRedis, ports.Take(t.Context(), c, req).Store, "the denial is older than the refund")
}

func TestCache_answersItsPartOfALargerCall(t *testing.T) {
	remote := newRemoteStore()
	c := newCache(t, remote)
	defer c.Close()
	denied := deniedAt(t, remote, c, []domain.Limit{mustLimit(t, "burst", "1/h", 10)})
	fresh := denied
	reqs := make([]ports.TakeRequest, 9)
	for i := range reqs {
		if reqs[i] = denied; i%3 == 0 { // also the first
			fresh.Key = clientkey.BucketKey(fmt.Sprintf("p:ip=fresh-%d", i))
			reqs[i] = fresh
		}
	}
	asked := remote.asked
	results := make([]ports.TakeResult, len(reqs))
	c.TakeMany(t.Context(), reqs, results)
	assert.Equal(t, 3, remote.asked-asked)
	for i, r := range results {
		require.NoError(t, r.Err)
		if i%3 == 0 {
			assert.Equal(t, domain.Allowed, r.Verdict, "slot %d", i)
		} else {
			assert.Equal(t, decision.StoreShortcut, r.Store, "slot %d", i)
		}
	}
}

func TestConfig_reportsEveryViolation(t *testing.T) {
	err := denialcache.Config{MaxEntries: -1}.Validate()
	require.ErrorContains(t, err, "SHORTCUT_MAX_ENTRIES: -1")
	require.ErrorContains(t, err, "SHORTCUT_MAX_AGE: 0s")
}
