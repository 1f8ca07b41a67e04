package memstore_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// hold takes a token with a permit.
func hold(tb testing.TB, s *memstore.Store, key clientkey.BucketKey, permit string, limits ...domain.Limit) ports.TakeResult {
	tb.Helper()
	return ports.Take(tb.Context(), s, ports.TakeRequest{Key: key, Limits: limits, Cost: 1, Permit: permit})
}

func mustHold(tb testing.TB, s *memstore.Store, key clientkey.BucketKey, permit string, limits ...domain.Limit) domain.Verdict {
	tb.Helper()
	r := hold(tb, s, key, permit, limits...)
	require.NoError(tb, r.Err)
	return r.Verdict
}

func release(tb testing.TB, s *memstore.Store, key clientkey.BucketKey, permit string, limits ...domain.Limit) domain.Verdict {
	tb.Helper()
	r := ports.Take(tb.Context(), s, ports.TakeRequest{Op: domain.OpRelease, Key: key, Limits: limits, Permit: permit})
	require.NoError(tb, r.Err)
	return r.Verdict
}

func TestTakeMany_evictsNoPermits(t *testing.T) {
	store, _ := newStore(t, 100)
	parallel, bucket := mustConcurrency(t, "parallel", 1, time.Second), mustLimit(t, "burst", "1/h", 10)
	for i := range 100 {
		require.Equal(t, domain.Allowed, mustHold(t, store, numbered("holder", i), "p", parallel))
	}
	for i := range 300 {
		take(t, store, numbered("client", i), 1, bucket)
	}
	stats := store.Stats()
	assert.Equal(t, 100, stats.Buckets)
	assert.EqualValues(t, 200, stats.Evictions)
	assert.Equal(t, 100, stats.Permits)
	for i := range 100 {
		require.Equal(t, domain.Denied, mustHold(t, store, numbered("holder", i), "q", parallel), "holder %d lost its permit", i)
	}
}

func TestTakeMany_boundsThePermits(t *testing.T) {
	const most = 2048 // two stripes
	store, clock := newStore(t, most)
	one, two := mustConcurrency(t, "one", 1, time.Minute), mustConcurrency(t, "two", 2, time.Minute)
	bucket := mustLimit(t, "burst", "1/h", 10)
	for i := range most/2 - 1 {
		require.Equal(t, domain.Allowed, mustHold(t, store, numbered("holder", i), "p", one, two))
	}
	clock.Advance(time.Second)
	require.Equal(t, domain.Allowed, mustHold(t, store, "last but one", "p", one))

	r := hold(t, store, "new", "p", one, two, bucket)
	require.ErrorIs(t, r.Err, ports.ErrOverloaded, "there is room for one of two")
	require.EqualError(t, r.Err, "the memory store has no room for another permit: it may hold 2048")
	assert.Equal(t, domain.Allowed, take(t, store, "new", 10, bucket), "nothing was taken")
	require.Equal(t, domain.Allowed, mustHold(t, store, "last", "p", one))
	require.ErrorIs(t, hold(t, store, "new", "p", one).Err, ports.ErrOverloaded)
	assert.Equal(t, most, store.Stats().Permits)

	assert.Equal(t, domain.Denied, mustHold(t, store, "last", "q", one), "what is denied anyway needs no room")
	assert.Equal(t, domain.Denied, mustHold(t, store, "new", "p", two, bucket), "also for another limit's sake")
	assert.Equal(t, domain.Allowed, take(t, store, "other", 1, bucket), "buckets are not concerned")
	assert.Equal(t, domain.Allowed, take(t, store, "new", 0, one), "nor are peeks")

	require.Equal(t, domain.Allowed, release(t, store, "last", "p", one))
	assert.Equal(t, domain.Allowed, mustHold(t, store, "new", "p", one), "a release makes room")
	clock.Advance(59 * time.Second)
	assert.Equal(t, domain.Allowed, mustHold(t, store, "newer", "p", one), "and so does the end of leases, before the sweep")
	assert.Less(t, store.Stats().Permits, most)
	store.Sweep()
	assert.Equal(t, 3, store.Stats().Permits)
}

// A store that is full is not searched as a whole for each take.
func TestTakeMany_looksForFewExpiredPermits(t *testing.T) {
	const most = 1000
	store, clock := newStore(t, most)
	short := mustConcurrency(t, "parallel", 1, time.Second)
	for i := range most {
		require.Equal(t, domain.Allowed, mustHold(t, store, numbered("holder", i), "p", short))
	}
	clock.Advance(time.Second)
	require.Equal(t, domain.Allowed, mustHold(t, store, "new", "p", short))
	assert.Less(t, store.Stats().Permits, most)
	assert.Greater(t, store.Stats().Permits, most*9/10)
	assert.Equal(t, store.Stats().Permits, store.PermitSets())
	store.Sweep()
	assert.Equal(t, 1, store.Stats().Permits)
}

func TestTakeMany_removesTheExpiredPermitsOfItsClientFirst(t *testing.T) {
	const most = 1000
	store, clock := newStore(t, most)
	short, long := mustConcurrency(t, "parallel", 1, time.Second), mustConcurrency(t, "parallel", 1, time.Hour)
	require.Equal(t, domain.Allowed, mustHold(t, store, "one", "p", short))
	for i := range most - 1 {
		require.Equal(t, domain.Allowed, mustHold(t, store, numbered("holder", i), "p", long))
	}
	for range 20 {
		clock.Advance(time.Second)
		require.Equal(t, domain.Allowed, mustHold(t, store, "one", "q", short))
	}
	assert.Equal(t, most, store.Stats().Permits)
}

// Every way in which permits come and go leaves the count right.
func TestStats_countsPermits(t *testing.T) {
	store, clock := newStore(t, 100)
	short, long := mustConcurrency(t, "short", 2, time.Second), mustConcurrency(t, "long", 2, time.Minute)
	ask := func(op domain.Op, permit string) {
		r := ports.Take(t.Context(), store, ports.TakeRequest{Op: op, Key: "a", Limits: []domain.Limit{short, long}, Cost: 1, Permit: permit})
		require.NoError(t, r.Err)
	}
	for i, step := range []struct {
		op      domain.Op
		permit  string
		advance time.Duration
		want    int
	}{
		{domain.OpTake, "p", 0, 2},
		{domain.OpTake, "p", 0, 2}, // an ID that is used twice is one permit
		{domain.OpTake, "q", 0, 4},
		{domain.OpTake, "r", 0, 4}, // denied
		{domain.OpRenew, "p", 0, 4},
		{domain.OpRelease, "r", 0, 4},
		{domain.OpRelease, "p", 0, 2},
		{domain.OpRelease, "p", 0, 2},
		{domain.OpPeek, "", time.Second, 1}, // one has expired
		{domain.OpUndo, "q", 0, 0},
		{domain.OpReset, "", 0, 0},
		{domain.OpTake, "s", 0, 2},
		{domain.OpReset, "", 0, 2},
	} {
		clock.Advance(step.advance)
		ask(step.op, step.permit)
		assert.Equal(t, step.want, store.Stats().Permits, "step %d: %s %s", i, step.op, step.permit)
		assert.LessOrEqual(t, store.PermitSets(), step.want, "step %d: no set is empty", i)
	}
	assert.Equal(t, 2, store.PermitSets())
	clock.Advance(time.Minute)
	store.Sweep()
	assert.Zero(t, store.Stats().Permits)
	assert.Zero(t, store.PermitSets())
	assert.Zero(t, store.Stats().Buckets, "permits are no buckets")
}

func TestStore_removesExpiredPermitsWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := memstore.New(memstore.DefaultConfig())
		require.NoError(t, err)
		soon, late := mustConcurrency(t, "soon", 2, time.Second), mustConcurrency(t, "late", 2, time.Hour)
		for i := range 1000 {
			require.Equal(t, domain.Allowed, mustHold(t, store, numbered("client", i), "p", soon))
		}
		require.Equal(t, domain.Allowed, mustHold(t, store, "client", "p", soon, late))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		assert.Equal(t, 1, store.Stats().Permits)
		assert.Equal(t, 1, store.PermitSets())
		require.NoError(t, store.Close())
	})
}

func TestTakeMany_keepsNoPermitOfTheCaller(t *testing.T) {
	store, _ := newStore(t, 100)
	l := mustConcurrency(t, "parallel", 3, time.Minute)
	key, permit := []byte("client"), []byte("permit")
	require.Equal(t, domain.Allowed, mustHold(t, store, clientkey.BucketKey(unsafe.String(&key[0], len(key))), unsafe.String(&permit[0], len(permit)), l))
	copy(key, "others")
	copy(permit, "others")
	assert.Equal(t, domain.Denied, release(t, store, "others", "others", l))
	assert.Equal(t, domain.Allowed, release(t, store, "client", "permit", l))
}

// A list that was returned is the caller's: it does not change when permits do.
func TestTakeMany_reusesTheMemoryOfLists(t *testing.T) {
	store, _ := newStore(t, 100)
	limits := []domain.Limit{mustConcurrency(t, "parallel", 3, time.Minute), mustLimit(t, "burst", "1/h", 10)}
	for i := range 3 {
		mustHold(t, store, "a", fmt.Sprint("p", i), limits...)
	}
	reqs, results := []ports.TakeRequest{{Op: domain.OpList, Key: "a", Limits: limits}}, make([]ports.TakeResult, 1)
	store.TakeMany(t.Context(), reqs, results)
	first := results[0].Permits[0]
	require.Len(t, first, 3)
	release(t, store, "a", "p0", limits...)
	assert.Equal(t, "p0", first[0].ID)
	store.TakeMany(t.Context(), reqs, results)
	require.Len(t, results[0].Permits[0], 2)
	assert.Same(t, &first[0], &results[0].Permits[0][0], "the slot's memory is reused")
}
