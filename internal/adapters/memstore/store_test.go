package memstore_test

import (
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func TestNew_refusesABoundOutOfRange(t *testing.T) {
	for _, n := range []int{-1, 0, 31, 100_000_001} {
		_, err := memstore.New(memstore.Config{MaxBuckets: n})
		require.ErrorContains(t, err, "MEMORY_MAX_BUCKETS")
	}
	for _, n := range []int{32, 100_000_000} {
		assert.NoError(t, memstore.Config{MaxBuckets: n}.Validate())
	}
}

func TestTakeMany_refusesKeysTooLongToKeep(t *testing.T) {
	store, _ := newStore(t, 100)
	limits := []domain.Limit{mustLimit(t, "default", "1/h", 10)}
	reqs := []ports.TakeRequest{
		{Key: clientkey.BucketKey(strings.Repeat("k", 4096)), Limits: limits, Cost: 1},
		{Key: clientkey.BucketKey(strings.Repeat("k", 4097)), Limits: limits, Cost: 1},
	}
	results := make([]ports.TakeResult, len(reqs))
	store.TakeMany(t.Context(), reqs, results)
	require.NoError(t, results[0].Err)
	require.ErrorIs(t, results[1].Err, ports.ErrInvalidTake)
}

func TestTakeMany_keepsNoMemoryOfTheCaller(t *testing.T) {
	store, _ := newStore(t, 100)
	limits := []domain.Limit{mustLimit(t, "default", "1/h", 10)}
	buckets := make([]domain.State, 1)
	results := []ports.TakeResult{{States: buckets}}
	reqs := []ports.TakeRequest{{Key: "a", Limits: limits, Cost: 10}}
	store.TakeMany(t.Context(), reqs, results)
	require.Equal(t, domain.Allowed, results[0].Verdict)
	assert.Same(t, &buckets[0], &results[0].States[0], "the slot's memory is reused")
	buckets[0] = limits[0].Full(results[0].Now)
	assert.Equal(t, domain.Denied, take(t, store, "a", 1, limits...))
}

func TestTakeMany_allocatesNothingForKnownKeys(t *testing.T) {
	store, _ := newStore(t, 100)
	limits := []domain.Limit{mustLimit(t, "burst", "1/h", 1000), mustQuota(t, "daily", 1000, "day")}
	reqs := []ports.TakeRequest{{Key: "a", Limits: limits, Cost: 1}, {Key: "b", Limits: limits[:1], Cost: 1}}
	results := make([]ports.TakeResult, len(reqs))
	store.TakeMany(t.Context(), reqs, results)
	assert.Zero(t, testing.AllocsPerRun(100, func() { store.TakeMany(t.Context(), reqs, results) }))
	assert.Equal(t, domain.Allowed, results[1].Verdict)
}

func TestStore_spreadsKeysOverItsStripes(t *testing.T) {
	store, _ := newStore(t, memstore.DefaultConfig().MaxBuckets)
	const keys = 256 * 400
	spread := make(map[int]int)
	for i := range keys {
		spread[store.StripeOf(numbered("default:ip=10.0.0.", i))]++
	}
	require.Len(t, spread, 256)
	for stripe, n := range spread { // a binomial spread has a standard deviation of 20
		assert.InDelta(t, 400, n, 160, "stripe %d", stripe)
	}
}

// Takes of one client run while others make its stripe grow, shrink, evict and sweep.
func TestTakeMany_concurrentTakesPassExactlyCapacity(t *testing.T) {
	const capacity, askers, each = 500, 8, 200
	store, clock := newStore(t, 20_000)
	hot, cold := mustLimit(t, "hot", "1/24h", capacity), mustLimit(t, "cold", "1000/s", 10)
	var allowed, next atomic.Int64
	var done sync.WaitGroup
	gun := make(chan struct{})
	for range askers {
		done.Go(func() {
			<-gun
			reqs := []ports.TakeRequest{
				{Limits: []domain.Limit{cold}, Cost: 1},
				{Key: "hot", Limits: []domain.Limit{hot}, Cost: 1},
			}
			results := make([]ports.TakeResult, len(reqs))
			for range each {
				for range 20 {
					reqs[0].Key = numbered("cold", int(next.Add(1)))
					store.TakeMany(t.Context(), reqs[:1], results[:1])
				}
				store.TakeMany(t.Context(), reqs, results)
				if results[1].Verdict == domain.Allowed {
					allowed.Add(1)
				}
				clock.Advance(10 * time.Microsecond)
			}
		})
	}
	close(gun)
	done.Wait()
	assert.EqualValues(t, capacity, allowed.Load())
	assert.Positive(t, store.Stats().Expired, "buckets were removed meanwhile")
}

// The answers are those of a plain map that removes nothing.
func TestTakeMany_agreesWithAPlainMap(t *testing.T) {
	type name struct {
		key   clientkey.BucketKey
		limit string
	}
	limits := []domain.Limit{
		mustLimit(t, "a", "10/s", 10), mustLimit(t, "b", "3/s", 7), mustConcurrency(t, "f", 3, 2*time.Second), mustLimit(t, "c", "1/m", 5),
		mustQuota(t, "d", 6, "3s"), mustConcurrency(t, "g", 5, time.Minute), mustQuota(t, "e", 9, "minute"),
	}
	limits[3], _ = limits[3].WithCost(2)
	store, clock := newStore(t, 6000)
	model, permits := make(map[name]domain.State), make(map[name]*domain.Permits)
	random := rand.New(rand.NewPCG(1, 2))
	ops := []domain.Op{
		domain.OpTake, domain.OpTake, domain.OpTake, domain.OpPeek, domain.OpRefund, domain.OpCharge, domain.OpUndo, domain.OpReset,
		domain.OpRelease, domain.OpRelease, domain.OpRenew, domain.OpList, domain.OpSettle,
	}
	for step := range 60_000 {
		clients := 1000
		if step/10_000%2 == 1 { // first many clients, then few
			clients = 20
		}
		first := random.IntN(len(limits))
		req := ports.TakeRequest{
			Op: ops[random.IntN(len(ops))], Key: numbered("client", random.IntN(clients)),
			Limits: limits[first : first+1+random.IntN(len(limits)-first)], Cost: domain.Tokens(1 + random.IntN(4)),
			TakenAt: clock.Now() - domain.Instant(random.IntN(2_000_000)), MaxWait: time.Duration(random.IntN(2)) * time.Second,
			Permit: string(numbered("p", step-step%8+random.IntN(8))),
		}
		clock.Advance(time.Duration(random.IntN(2000)) * time.Microsecond)
		got := ports.Take(t.Context(), store, req)
		require.NoError(t, got.Err)

		want, held := make([]domain.State, len(req.Limits)), make([]*domain.Permits, len(req.Limits))
		for i := range req.Limits {
			n := name{req.Key, req.Limits[i].Name()}
			want[i] = model[n]
			if req.Limits[i].Kind() == domain.KindConcurrency {
				if permits[n] == nil {
					permits[n] = new(domain.Permits)
				}
				want[i], held[i] = domain.State{}, permits[n]
			}
		}
		verdict, write := domain.Apply(req.Operation(), req.Limits, want, held, clock.Now())
		require.Equal(t, verdict, got.Verdict, "step %d: %v", step, req)
		for i := range want {
			if req.Op == domain.OpList && held[i] != nil {
				require.ElementsMatch(t, held[i].List(nil), got.Permits[i], "step %d", step)
			}
			if req.Limits[i].FullAt(want[i]) <= got.Now {
				want[i].At = got.Now // the store has forgotten that nothing is used
			}
		}
		require.Equal(t, want, got.States, "step %d: %v", step, req)
		for i := range req.Limits {
			if write {
				model[name{req.Key, req.Limits[i].Name()}] = want[i]
			}
		}
		if step%2500 == 0 {
			store.Sweep()
		}
	}
	require.Zero(t, store.Stats().Evictions, "otherwise the map would hold more")
	assert.Positive(t, store.Stats().Expired)
}

func TestNewWithClock_decidesByThatClock(t *testing.T) {
	now := domain.Instant(1_000_000)
	s, err := memstore.NewWithClock(memstore.DefaultConfig(), func() domain.Instant { return now })
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	limit, err := domain.NewBucket("burst", 1, 1, time.Hour)
	require.NoError(t, err)
	req := ports.TakeRequest{Key: "k", Limits: []domain.Limit{limit}, Cost: 1}
	assert.Equal(t, domain.Allowed, ports.Take(t.Context(), s, req).Verdict)
	now = now.Add(time.Hour - time.Microsecond)
	assert.Equal(t, domain.Denied, ports.Take(t.Context(), s, req).Verdict)
	now = now.Add(time.Microsecond)
	result := ports.Take(t.Context(), s, req)
	assert.Equal(t, domain.Allowed, result.Verdict)
	assert.Equal(t, now, result.Now)
}

// Servers go on after a panic of a request. So must the clients whose buckets share a lock with that request's.
func TestTakeMany_aPanicLeavesNoLock(t *testing.T) {
	s, clock := newStore(t, 1000)
	l := mustLimit(t, "burst", "1/h", 3)
	s.SetClock(func() domain.Instant { panic("out of order") })
	require.PanicsWithValue(t, "out of order", func() { take(t, s, "a", 1, l) })
	s.SetClock(clock.Now)
	decided := make(chan domain.Verdict, 1)
	go func() {
		decided <- ports.Take(t.Context(), s, ports.TakeRequest{Key: "a", Limits: []domain.Limit{l}, Cost: 1}).Verdict
	}()
	select {
	case verdict := <-decided:
		assert.Equal(t, domain.Allowed, verdict)
	case <-time.After(10 * time.Second):
		t.Fatal("the stripe is locked")
	}
}
