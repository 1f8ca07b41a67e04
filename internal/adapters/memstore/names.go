package memstore

import (
	"encoding/binary"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// names holds the names of buckets in one slice, one after another. A name is the group's key, and the limit's name and
// kind: a limit whose kind has changed must not read what the other kind counted. The memory of a dropped name is wasted
// until the table is rebuilt.
type names struct {
	bytes []byte
	waste int
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
	ref := nameRef(len(n.bytes))
	n.bytes = binary.LittleEndian.AppendUint32(n.bytes, header(key, limit))
	n.bytes = append(n.bytes, key...)
	n.bytes = append(n.bytes, limit.Name()...)
	return ref
}

// addFrom copies a name from other.
func (n *names) addFrom(other *names, ref nameRef) nameRef {
	_, end := other.extent(ref)
	added := nameRef(len(n.bytes))
	n.bytes = append(n.bytes, other.bytes[ref:end]...)
	return added
}

// at returns copies of a name's parts.
func (n *names) at(ref nameRef) (key clientkey.BucketKey, limit string) {
	keyLen, end := n.extent(ref)
	name := n.bytes[ref+nameHeader : end]
	return clientkey.BucketKey(name[:keyLen]), string(name[keyLen:])
}

func (n *names) drop(ref nameRef) {
	_, end := n.extent(ref)
	n.waste += end - int(ref)
}

func (n *names) extent(ref nameRef) (keyLen, end int) {
	l := binary.LittleEndian.Uint32(n.bytes[ref:]) & (1<<kindShift - 1)
	keyLen = int(l >> limitBits)
	return keyLen, int(ref) + nameHeader + keyLen + int(l&(1<<limitBits-1))
}

// wasteful reports whether a rebuild frees more than it moves.
func (n *names) wasteful() bool { return n.waste > 1024 && n.waste > len(n.bytes)/2 }
