package batch

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The queue is compared with a slice, while items join it, and leave it anywhere.
func TestQueue_keepsItsItemsInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var q queue
	var want []*item
	for range 10_000 {
		if len(want) == 0 || len(want) < 8 && r.IntN(2) == 0 {
			it := &item{}
			it.resize(1 + r.IntN(3))
			q.push(it)
			want = append(want, it)
		} else {
			i := r.IntN(len(want))
			require.True(t, q.remove(want[i]))
			require.False(t, q.remove(want[i]), "it has left")
			want = slices.Delete(want, i, i+1)
		}
		var forwards, backwards []*item
		groups := 0
		for it := q.first; it != nil; it = it.after {
			forwards = append(forwards, it)
			groups += len(it.groups)
		}
		for it := q.last; it != nil; it = it.before {
			backwards = append(backwards, it)
		}
		slices.Reverse(backwards)
		require.True(t, slices.Equal(want, forwards))
		require.True(t, slices.Equal(want, backwards))
		require.Equal(t, groups, q.groups)
	}
}
