package memstore

import (
	"encoding/binary"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// names holds the names of buckets, each the group's key and the limit's name, one after another in one piece of
// memory. A name that is dropped is waste until the table is rebuilt.
type names struct {
	bytes []byte
	waste int
}

// nameRef is where a name begins.
type nameRef uint32

const (
	// A name begins with 4 bytes: the length of the key and, in the low bits, that of the limit's name, which
	// domain.ValidName keeps below 64.
	nameHeader = 4
	limitBits  = 6
	// maxKeyLen bounds the memory of a bucket; those that domain makes are shorter than a kilobyte. With it, and
	// with maxBuckets, a nameRef can reach all names of a stripe.
	maxKeyLen = 4096
)

func lengths(key domain.BucketKey, limit string) uint32 {
	return uint32(len(key)<<limitBits | len(limit))
}

func (n *names) equal(ref nameRef, key domain.BucketKey, limit string) bool {
	name := n.bytes[ref:]
	if binary.LittleEndian.Uint32(name) != lengths(key, limit) {
		return false
	}
	name = name[nameHeader : nameHeader+len(key)+len(limit)]
	return string(name[:len(key)]) == string(key) && string(name[len(key):]) == limit
}

func (n *names) add(key domain.BucketKey, limit string) nameRef {
	ref := nameRef(len(n.bytes))
	n.bytes = binary.LittleEndian.AppendUint32(n.bytes, lengths(key, limit))
	n.bytes = append(n.bytes, key...)
	n.bytes = append(n.bytes, limit...)
	return ref
}

// addFrom adds a name of another piece of memory.
func (n *names) addFrom(other *names, ref nameRef) nameRef {
	_, end := other.extent(ref)
	added := nameRef(len(n.bytes))
	n.bytes = append(n.bytes, other.bytes[ref:end]...)
	return added
}

// at returns copies.
func (n *names) at(ref nameRef) (key domain.BucketKey, limit string) {
	keyLen, end := n.extent(ref)
	name := n.bytes[ref+nameHeader : end]
	return domain.BucketKey(name[:keyLen]), string(name[keyLen:])
}

func (n *names) drop(ref nameRef) {
	_, end := n.extent(ref)
	n.waste += end - int(ref)
}

func (n *names) extent(ref nameRef) (keyLen, end int) {
	l := binary.LittleEndian.Uint32(n.bytes[ref:])
	keyLen = int(l >> limitBits)
	return keyLen, int(ref) + nameHeader + keyLen + int(l&(1<<limitBits-1))
}

// wasteful reports whether a rebuild frees more than it moves.
func (n *names) wasteful() bool { return n.waste > 1024 && n.waste > len(n.bytes)/2 }
