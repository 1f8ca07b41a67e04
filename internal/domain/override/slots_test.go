package override

import (
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// Keys of one hash stay apart, whether they lie in the record or beside it.
func TestSlots_compareKeys(t *testing.T) {
	s := newSlots(leastSlots)
	const hash = 1<<64 - 1 // starts at the last group
	keys := []clientkey.BucketKey{"", "a", "b"}
	for _, size := range []int{shortKey - 1, shortKey, keyInRest, keyInRest + 1, 1000} {
		for _, end := range []string{"a", "b"} {
			keys = append(keys, clientkey.BucketKey(strings.Repeat("x", size-1)+end))
		}
	}
	for i, key := range keys {
		assert.Equal(t, -1, s.find(hash, key))
		r := newRecord(&Entry{Key: key}, nil)
		s.add(hash, &r)
		for k := range keys[:i+1] {
			at := s.find(hash, keys[k])
			if assert.GreaterOrEqual(t, at, 0) {
				assert.Equal(t, keys[k], s.records[at].key())
			}
		}
	}
}

func TestRecord_isOneLineOfTheCache(t *testing.T) {
	assert.LessOrEqual(t, unsafe.Sizeof(Record{}), uintptr(64))
}
