package override

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// Keys whose searches start together stay apart, and a search goes on over a place whose key has no override any more.
func TestIndex_searches(t *testing.T) {
	x := newIndex(leastPlaces)
	const last = 1<<64 - 1 // starts at the last group, so that searches go on at the first
	keys := make([]hashes, 3*groupSize)
	terms := make([]Terms, len(keys))
	for i := range keys {
		keys[i] = hashes{start: last, check: uint64(i) << 12} // equal for the filter
		assert.Nil(t, x.termsOf(keys[i]))
		assert.False(t, x.set(keys[i], nil), "it has none anyway")
		assert.True(t, x.set(keys[i], &terms[i]))
		for k := range keys[:i+1] {
			assert.Same(t, &terms[k], x.termsOf(keys[k]))
		}
	}
	assert.False(t, x.set(keys[1], nil))
	assert.Nil(t, x.termsOf(keys[1]))
	assert.Same(t, &terms[2], x.termsOf(keys[2]))
	assert.False(t, x.set(keys[1], &terms[0]), "its place is there still")
	assert.Same(t, &terms[0], x.termsOf(keys[1]))
}

// A search that ends at a free place ends there, also if another key takes the place meanwhile.
func TestIndex_findsNothingOfAKeyThatComesMeanwhile(t *testing.T) {
	const rounds = 100_000
	var current atomic.Pointer[index]
	var wg sync.WaitGroup
	wg.Go(func() {
		var last *index
		for range rounds {
			x := current.Load()
			for ; x == last; x = current.Load() {
				runtime.Gosched()
			}
			x.set(hashes{check: 1}, new(Terms))
			last = x
		}
	})
	found := 0
	for range rounds {
		x := newIndex(groupSize)
		current.Store(x)
		for i := 1; x.places[0].terms.Load() == nil; i++ {
			if _, terms := x.find(hashes{check: 2}); terms != nil {
				found++
			}
			if i%100 == 0 {
				runtime.Gosched() // with one processor the test ends, and shows nothing
			}
		}
	}
	wg.Wait()
	assert.Zero(t, found)
}

func TestIndex_fewSearchesForNothingReadAPlace(t *testing.T) {
	const keys, others = 2000, 100_000
	x, s := newIndex(keys*3/2), newSeeds() // as full as it gets
	key := func(i int) hashes { return s.of(clientkey.BucketKey(fmt.Sprint("search:ip=", i))) }
	for i := range keys {
		x.set(key(i), new(Terms))
	}
	passed := 0
	for i := range others {
		if x.mayHave(key(keys + i)) {
			passed++
		}
	}
	assert.Less(t, passed, others/20)
}

// In a large slice, whose memory starts at a page.
func TestIndex_groupIsOneLineOfTheCache(t *testing.T) {
	const line = 64
	assert.EqualValues(t, line, unsafe.Sizeof([groupSize]place{}))
	assert.Zero(t, uintptr(unsafe.Pointer(&newIndex(4096).places[0]))%line)
}

// The index of a table has a place for each key with an override and for some that had one, and at least a third of it is free, whatever
// came and went.
func TestTable_keepsPartOfTheIndexFree(t *testing.T) {
	table := NewTable()
	check := func() (places int) {
		x, taken := table.index.Load(), 0
		for i := range x.places {
			if x.places[i].terms.Load() != nil {
				taken++
			}
		}
		require.Equal(t, taken, table.taken)
		require.LessOrEqual(t, table.stats.Live, taken)
		require.LessOrEqual(t, 3*taken, 2*len(x.places))
		return len(x.places)
	}
	const clients = 3000
	set := func(client int, version domain.Instant, ended bool) {
		e := Entry{Key: clientkey.BucketKey(fmt.Sprint("search:ip=", client)), Version: version, Ended: ended}
		if !ended {
			e.Effect = fmt.Sprintf(`[{"name":"burst","capacity":%d}]`, 1+client%100)
		}
		require.Equal(t, 1, table.Merge(e))
	}
	for client := range clients {
		set(client, 1, false)
		check()
	}
	full := check()
	for client := range clients - 1 {
		set(client, 2, true)
		check()
	}
	assert.Len(t, table.owned["search"].effects, 1)
	for client := range clients {
		set(clients+client, 1, false)
		set(clients+client, 2, true)
		assert.Less(t, check(), full+1, "it does not grow with what has ended")
	}
	assert.Less(t, check(), full/2)
	set(clients-1, 2, true)
	assert.Empty(t, table.owned)
}
