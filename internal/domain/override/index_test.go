package override

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
)

// Keys whose searches start together stay apart, and a search goes on over a place whose key has no override any more.
func TestIndex_searches(t *testing.T) {
	x := newIndex(leastPlaces)
	const last = 1<<64 - 1 // starts at the last group, so that searches go on at the first
	keys := make([]hashes, 3*groupSize)
	terms := make([]Terms, len(keys))
	for i := range keys {
		keys[i] = hashes{start: last, place: uint64(i)}
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

func TestIndex_groupIsOneLineOfTheCache(t *testing.T) {
	assert.LessOrEqual(t, unsafe.Sizeof([groupSize]place{}), uintptr(64))
}
