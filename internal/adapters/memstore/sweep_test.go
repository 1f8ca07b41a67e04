package memstore_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/domain"
)

// The synctest bubble ends only after the store's goroutine has ended.
func TestStore_freesMemoryWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := memstore.New(memstore.DefaultConfig())
		require.NoError(t, err)
		empty := store.Bytes()
		soon, late := mustLimit(t, "soon", "1/s", 10), mustLimit(t, "late", "1/h", 10)
		for i := range 50_000 {
			take(t, store, numbered("soon", i), 10, soon)
		}
		take(t, store, "late", 1, late)
		full := store.Bytes()
		require.Greater(t, full, 10*empty)

		time.Sleep(9 * time.Second)
		synctest.Wait()
		assert.Equal(t, 50_001, store.Stats().Buckets, "none is full again")
		time.Sleep(18 * time.Second)
		synctest.Wait()
		assert.Equal(t, 1, store.Stats().Buckets)
		assert.EqualValues(t, 50_000, store.Stats().Expired)
		assert.True(t, store.Holds("late"))
		assert.Less(t, store.Bytes(), full/10)

		require.NoError(t, store.Close())
		require.NoError(t, store.Close(), "a second Close does no harm")
		assert.Equal(t, domain.Allowed, take(t, store, "late", 9, late), "a closed store still decides")
		assert.Equal(t, domain.Denied, take(t, store, "late", 1, late))
	})
}

func TestNew_countsMonotonicTimeFromTheWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		now := memstore.MonotonicClock()
		assert.Equal(t, domain.InstantOf(start), now())
		time.Sleep(90*time.Second + 1500*time.Nanosecond)
		assert.Equal(t, domain.InstantOf(start).Add(90*time.Second+time.Microsecond), now())
	})
}
