package memstore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

func TestTakeMany_evictsTheFullest(t *testing.T) {
	store, clock := newStore(t, 1000)
	l := mustLimit(t, "default", "1/h", 10)
	for i := range 500 {
		require.Equal(t, domain.Allowed, take(t, store, numbered("empty", i), 10, l))
		require.Equal(t, domain.Allowed, take(t, store, numbered("nearly full", i), 1, l))
	}
	require.Equal(t, 1000, store.Stats().Buckets)
	require.Zero(t, store.Stats().Evictions, "the store was not full")

	clock.Advance(time.Minute)
	for i := range 50 {
		require.Equal(t, domain.Allowed, take(t, store, numbered("new", i), 2, l))
	}
	for i := range 500 {
		require.Equal(t, domain.Denied, take(t, store, numbered("empty", i), 1, l), "client %d gained tokens", i)
	}
	stats := store.Stats()
	assert.Equal(t, 1000, stats.Buckets)
	assert.EqualValues(t, 50, stats.Evictions, "one for each new client")
	assert.Contains(t, stats.LastEviction.Key, "nearly full")
	assert.Equal(t, "default", stats.LastEviction.Limit)
	assert.Equal(t, clock.Now(), stats.LastEviction.At)
	assert.Equal(t, clock.Now().Add(59*time.Minute), stats.LastEviction.FullAt)
}

// A quota is worth more than a bucket that fills in seconds.
func TestTakeMany_evictsQuotasLast(t *testing.T) {
	store, clock := newStore(t, 1000)
	bucket, daily := mustLimit(t, "burst", "1/m", 10), mustQuota(t, "daily", 10, "day")
	for i := range 500 {
		require.Equal(t, domain.Allowed, take(t, store, numbered("bucket", i), 10, bucket))
		require.Equal(t, domain.Allowed, take(t, store, numbered("quota", i), 1, daily))
	}
	for i := range 50 {
		require.Equal(t, domain.Allowed, take(t, store, numbered("new", i), 1, daily))
	}
	require.EqualValues(t, 50, store.Stats().Evictions)
	for i := range 500 {
		require.Equal(t, domain.Denied, take(t, store, numbered("quota", i), 10, daily), "client %d has a new quota", i)
	}
	clock.Advance(24 * time.Hour)
	store.Sweep()
	assert.Zero(t, store.Stats().Buckets, "the period has ended")
}

// All daily quotas are unused again at the same instant.
func TestTakeMany_evictsTheLeastUsedOfTheQuotasThatEndTogether(t *testing.T) {
	store, _ := newStore(t, 1000)
	daily := mustQuota(t, "daily", 10, "day")
	for i := range 500 {
		require.Equal(t, domain.Allowed, take(t, store, numbered("much", i), 10, daily))
		require.Equal(t, domain.Allowed, take(t, store, numbered("little", i), 1, daily))
	}
	for i := range 400 {
		require.Equal(t, domain.Allowed, take(t, store, numbered("new", i), 1, daily))
	}
	for i := range 500 {
		require.Equal(t, domain.Denied, take(t, store, numbered("much", i), 1, daily), "client %d has a new quota", i)
	}
}

// A store whose buckets all have fewer tokens than a new one still counts the new client.
func TestTakeMany_countsANewClientWhenAllOthersAreEmpty(t *testing.T) {
	store, _ := newStore(t, 500)
	l := mustLimit(t, "default", "1/h", 10)
	for i := range 500 {
		take(t, store, numbered("empty", i), 10, l)
	}
	for range 10 {
		require.Equal(t, domain.Allowed, take(t, store, "new", 1, l))
	}
	assert.Equal(t, domain.Denied, take(t, store, "new", 1, l))
	assert.EqualValues(t, 1, store.Stats().Evictions)
}

func TestTakeMany_evictsNoneWhileFullBucketsCanBeRemoved(t *testing.T) {
	store, clock := newStore(t, 1000)
	l := mustLimit(t, "default", "1/s", 10)
	for batch := range 5 {
		for i := range 1000 {
			take(t, store, numbered("client", batch*1000+i), 10, l)
		}
		clock.Advance(10 * time.Second)
	}
	stats := store.Stats()
	assert.Zero(t, stats.Evictions)
	assert.EqualValues(t, 5000, uint64(stats.Buckets)+stats.Expired)
}

// Clients come and go. The memory depends on how many there are at a time.
func TestTakeMany_reusesTheSlotsOfFullBuckets(t *testing.T) {
	store, clock := newStore(t, 1_000_000)
	l := mustLimit(t, "default", "1/s", 10)
	var early int
	for i := range 100_000 {
		take(t, store, numbered("client", i), 1, l)
		clock.Advance(time.Millisecond) // so 1000 are not full
		if i == 10_000 {
			early = store.Bytes()
		}
	}
	assert.Less(t, store.Bytes(), 2*early)
	assert.Zero(t, store.Stats().Evictions)
}

func TestTakeMany_storesNoFullBucket(t *testing.T) {
	store, _ := newStore(t, 1000)
	l, m := mustLimit(t, "burst", "1/h", 10), mustLimit(t, "daily", "1/24h", 10)
	take(t, store, "a", 5, l)
	r := ports.Take(t.Context(), store, ports.TakeRequest{Op: domain.OpRefund, Key: "a", Limits: []domain.Limit{l, m}, Cost: 1})
	require.NoError(t, r.Err)
	assert.Equal(t, 1, store.Stats().Buckets, "the refund touched a bucket that was full anyway")
}

// A full bucket counts as missing at once, whether it was swept or not.
func TestTakeMany_forgetsAFullBucketBeforeItIsSwept(t *testing.T) {
	store, clock := newStore(t, 1000)
	take(t, store, "a", 10, mustLimit(t, "burst", "1/s", 10))
	clock.Advance(10 * time.Second)
	require.Equal(t, 1, store.Stats().Buckets)
	assert.Equal(t, domain.Allowed, take(t, store, "a", 20, mustLimit(t, "burst", "1/h", 20)), "a larger limit starts full")
}

func TestTakeMany_keepsTheBound(t *testing.T) {
	const bound, clients = 10_000, 400_000
	store, clock := newStore(t, bound)
	l := mustLimit(t, "default", "1/h", 10)
	reqs := []ports.TakeRequest{{Limits: []domain.Limit{l}, Cost: 1}}
	results := make([]ports.TakeResult, 1)
	for i := range clients {
		reqs[0].Key = numbered("client", i)
		store.TakeMany(t.Context(), reqs, results)
		if i%1000 == 0 {
			require.Equal(t, domain.Allowed, results[0].Verdict)
			require.LessOrEqual(t, store.Stats().Buckets, bound)
			clock.Advance(time.Millisecond)
		}
	}
	stats := store.Stats()
	assert.Equal(t, bound, stats.Buckets)
	assert.EqualValues(t, clients-bound, stats.Evictions)
	assert.Less(t, store.Bytes(), bound*200, "names of evicted buckets are freed")
}

// The largest group fits into the smallest store, and is evicted for another.
func TestTakeMany_holdsAGroupOfTheMostLimits(t *testing.T) {
	store, _ := newStore(t, policy.MaxLimits)
	limits := make([]domain.Limit, policy.MaxLimits)
	for i := range limits {
		limits[i] = mustLimit(t, string(numbered("l", i)), "1/h", domain.Tokens(i+1))
	}
	require.Equal(t, domain.Allowed, take(t, store, "a", 1, limits...))
	assert.Equal(t, domain.Denied, take(t, store, "a", 1, limits...), "the first limit has one token")
	assert.Equal(t, policy.MaxLimits, store.Stats().Buckets)
	require.Equal(t, domain.Allowed, take(t, store, "b", 1, limits...))
	assert.Equal(t, policy.MaxLimits, store.Stats().Buckets)
}

// A name may be as long as a client likes: MaxNameBytes bounds the memory all the same.
func TestTakeMany_boundsTheBytesOfNames(t *testing.T) {
	const bound = 100_000
	store, err := memstore.New(memstore.Config{MaxBuckets: 10_000, MaxNameBytes: bound})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	l := mustLimit(t, "default", "1/h", 10)
	for i := range 20_000 {
		key := numbered("client", i)
		if i%3 == 0 {
			key += clientkey.BucketKey(strings.Repeat("x", i%3000))
		}
		take(t, store, key, 1, l)
		require.LessOrEqual(t, store.NameBytes(), bound*3/2)
	}
	assert.Positive(t, store.Stats().Evictions)
	for range 9 {
		require.Equal(t, domain.Allowed, take(t, store, "last", 1, l))
	}
	assert.Equal(t, domain.Denied, take(t, store, "last", 2, l), "clients are still counted")
}

// The name of an evicted bucket makes place for the next one, so that a flood of new clients needs no more memory than the
// bound says.
func TestTakeMany_reusesTheMemoryOfNames(t *testing.T) {
	const bound = 10_000
	store, _ := newStore(t, bound)
	l := mustLimit(t, "default", "1/h", 10)
	for i := range bound {
		take(t, store, numbered("client", 1_000_000+i), 1, l)
	}
	full := store.NameBytes()
	for i := range 5 * bound {
		take(t, store, numbered("client", 2_000_000+i), 1, l)
	}
	assert.Less(t, store.NameBytes(), full*11/10)
}
