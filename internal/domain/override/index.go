package override

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// index finds the terms of a key's override. It is a hash table with open addressing, which readers search without a lock. A
// search mostly waits for memory, so it reads as little as it can: four places are a group, which in a large index is one line of the
// processor's cache, and most searches end in the first one.
//
// There are no keys in it: equal hashes are taken for equal keys. One hash of a key says where its search starts, and the place has
// another one, so a search for a key without an override finds that of another key with a probability of 2^-62 for each group that it
// reads. No client can choose such a key, since the seeds are the process's secret.
type index struct {
	places []place
	// filter ends nearly all searches for keys without an override before they wait for a place. It is a Bloom filter: a key has two bits
	// of one word, and eight places share a word. The filter of 100,000 overrides fits into the processor's cache.
	filter []atomic.Uint64
}

// place belongs to one key for as long as the index lives, also when the key has no override any more. So its hash never changes, and a
// change of an override is one store.
type place struct {
	hash  uint64                // hashes.check of the key; written before the first terms
	terms atomic.Pointer[Terms] // nil: the place is free, and a search ends here
}

// noTerms are those of a place whose key has no override any more.
var noTerms Terms

const (
	groupSize   = 4
	leastPlaces = 64
)

// hashes are those of one key: start says where its search starts, and check which place is its own.
type hashes struct{ start, check uint64 }

type seeds struct{ start, check maphash.Seed }

func newSeeds() seeds { return seeds{maphash.MakeSeed(), maphash.MakeSeed()} }

func (s *seeds) of(key clientkey.BucketKey) hashes {
	return hashes{maphash.String(s.start, string(key)), maphash.String(s.check, string(key))}
}

func newIndex(size int) *index {
	groups := (size + groupSize - 1) / groupSize
	return &index{make([]place, groups*groupSize), make([]atomic.Uint64, (groups+1)/2)}
}

// filtered returns the word of the filter that a key belongs to, and its bits in it.
func (x *index) filtered(h hashes) (word *atomic.Uint64, bitsOfKey uint64) {
	at, _ := bits.Mul64(h.start, uint64(len(x.filter)))
	return &x.filter[at], 1<<(h.check&63) | 1<<(h.check>>6&63)
}

// mayHave reports whether there may be a place of a key.
func (x *index) mayHave(h hashes) bool {
	word, b := x.filtered(h)
	return word.Load()&b == b
}

// find returns the place of a key and its terms, or the free place where its search ends and nil. There must be a free place.
func (x *index) find(h hashes) (at *place, terms *Terms) {
	group, _ := bits.Mul64(h.start, uint64(len(x.places)/groupSize))
	for i := int(group) * groupSize; ; i++ {
		if i == len(x.places) {
			i = 0
		}
		at = &x.places[i]
		if terms = at.terms.Load(); terms == nil || at.hash == h.check {
			return at, terms
		}
	}
}

// termsOf returns the terms of a key's override, or nil.
func (x *index) termsOf(h hashes) *Terms {
	if !x.mayHave(h) {
		return nil
	}
	if _, terms := x.find(h); terms != &noTerms {
		return terms
	}
	return nil
}

// set changes the terms of a key's override; nil: it has none. It reports whether that took a free place. It needs Table.mu.
func (x *index) set(h hashes, terms *Terms) (taken bool) {
	at, old := x.find(h)
	switch {
	case terms == nil && old == nil:
		return false
	case terms == nil:
		terms = &noTerms
	case old == nil:
		at.hash = h.check
	}
	at.terms.Store(terms)
	if old == nil {
		word, b := x.filtered(h)
		word.Store(word.Load() | b)
	}
	return old == nil
}
