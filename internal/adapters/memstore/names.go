package memstore

import (
	"encoding/binary"
	"slices"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// names holds the names of buckets in one slice, one after another. A name is the group's key, and the limit's name and
// kind: a limit whose kind has changed must not read what the other kind counted. The memory of a dropped name serves the next
// name of the same size, or is wasted until the names are compacted.
type names struct {
	bytes []byte
	// waste is the number of bytes of dropped names, whether they are in a free list or not.
	waste int
	// free has the first dropped name of each size in units of nameUnit, plus 1; 0 if there is none. The first four bytes of
	// a dropped name have the next one, also plus 1.
	free [maxReused/nameUnit + 1]nameRef
}

// nameRef is the offset of a name.
type nameRef uint32

const (
	// A name starts with 4 bytes: from the high bits to the low ones the limit's kind, the length of the key, and the length
	// of the limit's name, which is below 64 by domain.ValidName.
	nameHeader = 4
	kindShift  = 24
	limitBits  = 6
	// maxKeyLen bounds the memory of a bucket. Keys made by package domain are shorter than a kilobyte. Together with
	// maxBuckets it keeps the names of a stripe within the range of a nameRef.
	maxKeyLen = 4096
	// The size of a name is rounded up to a multiple of nameUnit. Longer names than maxReused are rare, and not reused.
	nameUnit, maxReused = 4, 256
)

func header(key clientkey.BucketKey, limit *domain.Limit) uint32 {
	return uint32(limit.Kind())<<kindShift | uint32(len(key)<<limitBits|len(limit.Name()))
}

func (n *names) equal(ref nameRef, key clientkey.BucketKey, limit *domain.Limit) bool {
	name := n.bytes[ref:]
	if binary.LittleEndian.Uint32(name) != header(key, limit) {
		return false
	}
	name = name[nameHeader : nameHeader+len(key)+len(limit.Name())]
	return string(name[:len(key)]) == string(key) && string(name[len(key):]) == limit.Name()
}

func (n *names) add(key clientkey.BucketKey, limit *domain.Limit) nameRef {
	ref, name := n.alloc(nameSize(key, limit))
	binary.LittleEndian.PutUint32(name, header(key, limit))
	copy(name[nameHeader+copy(name[nameHeader:], key):], limit.Name())
	return ref
}

func nameSize(key clientkey.BucketKey, limit *domain.Limit) int {
	return roundUp(nameHeader + len(key) + len(limit.Name()))
}

func roundUp(size int) int { return (size + nameUnit - 1) &^ (nameUnit - 1) }

// alloc returns the memory of a new name, whose size is rounded up.
func (n *names) alloc(size int) (nameRef, []byte) {
	if size <= maxReused {
		if first := n.free[size/nameUnit]; first != 0 {
			name := n.bytes[first-1:][:size]
			n.free[size/nameUnit] = nameRef(binary.LittleEndian.Uint32(name))
			n.waste -= size
			return first - 1, name
		}
	}
	end := len(n.bytes)
	n.bytes = slices.Grow(n.bytes, size)[:end+size]
	return nameRef(end), n.bytes[end:]
}

// at returns copies of a name's parts.
func (n *names) at(ref nameRef) (key clientkey.BucketKey, limit string) {
	keyLen, end := extent(n.bytes, ref)
	name := n.bytes[ref+nameHeader : end]
	return clientkey.BucketKey(name[:keyLen]), string(name[keyLen:])
}

func (n *names) drop(ref nameRef) {
	_, end := extent(n.bytes, ref)
	size := roundUp(end - int(ref))
	n.waste += size
	if size <= maxReused {
		binary.LittleEndian.PutUint32(n.bytes[ref:], uint32(n.free[size/nameUnit]))
		n.free[size/nameUnit] = ref + 1
	}
}

// extent returns the length of a name's key, and where the name ends in bytes.
func extent(bytes []byte, ref nameRef) (keyLen, end int) {
	l := binary.LittleEndian.Uint32(bytes[ref:]) & (1<<kindShift - 1)
	keyLen = int(l >> limitBits)
	return keyLen, int(ref) + nameHeader + keyLen + int(l&(1<<limitBits-1))
}

// used returns the number of bytes of the names that are not dropped.
func (n *names) used() int { return len(n.bytes) - n.waste }

// wasteful reports whether it is worth the time to compact the names.
func (n *names) wasteful() bool { return n.waste > 1024 && n.waste > len(n.bytes)/4 }

// compact frees the memory of dropped names. It changes the names in slots.
func (n *names) compact(slots []slot) {
	old := n.bytes
	*n = names{bytes: make([]byte, 0, n.used()+n.used()/8)}
	for i := range slots {
		if slots[i].tag == 0 {
			continue
		}
		ref := int(slots[i].name)
		_, end := extent(old, slots[i].name)
		slots[i].name = nameRef(len(n.bytes))
		n.bytes = append(n.bytes, old[ref:ref+roundUp(end-ref)]...)
	}
}
