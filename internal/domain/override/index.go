package override

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// index has the terms of each key that has an override. It is a hash table with open addressing, which readers search without a
// lock. A search mostly waits for memory, so it reads as little as it can: four places are a group, of one line of the processor's
// cache, and most searches end in the first one.
//
// There are no keys in it: equal hashes are taken for equal keys. A place has one hash of its key and lies where another one says, so
// a search for a key that has no override finds that of another with a probability of 2^-62 at most for each group. No client can choose
// keys for it, since the seeds are the process's secret.
type index struct{ places []place }

// place belongs to one key for as long as the index lives, also when the key has no override any more. So its hash never changes, and a
// change of an override is one store.
type place struct {
	hash  uint64                // written before the first terms
	terms atomic.Pointer[Terms] // nil: no key's; searches end here
}

// noTerms are those of a place whose key has no override any more.
var noTerms Terms

const (
	groupSize   = 4
	leastPlaces = 64
)

// hashes are those of one key: of where its search starts, and of its place.
type hashes struct{ start, place uint64 }

type seeds struct{ start, place maphash.Seed }

func newSeeds() seeds { return seeds{maphash.MakeSeed(), maphash.MakeSeed()} }

func (s *seeds) of(key clientkey.BucketKey) hashes {
	return hashes{maphash.String(s.start, string(key)), maphash.String(s.place, string(key))}
}

func newIndex(size int) *index {
	return &index{make([]place, (size+groupSize-1)/groupSize*groupSize)}
}

// find returns the place of a key, or the free place where its search ends. There must be a free place.
func (x *index) find(h hashes) (at *place, free bool) {
	group, _ := bits.Mul64(h.start, uint64(len(x.places)/groupSize))
	for i := int(group) * groupSize; ; i++ {
		if i == len(x.places) {
			i = 0
		}
		at = &x.places[i]
		if at.terms.Load() == nil {
			return at, true
		}
		if at.hash == h.place {
			return at, false
		}
	}
}

// termsOf returns the terms of a key's override, or nil.
func (x *index) termsOf(h hashes) *Terms {
	at, _ := x.find(h)
	if terms := at.terms.Load(); terms != &noTerms {
		return terms
	}
	return nil
}

// set changes the terms of a key's override; nil: it has none. It reports whether that took a free place. It needs Table.mu.
func (x *index) set(h hashes, terms *Terms) (taken bool) {
	at, free := x.find(h)
	switch {
	case terms != nil && free:
		at.hash = h.place
		at.terms.Store(terms)
		return true
	case terms != nil:
		at.terms.Store(terms)
	case !free:
		at.terms.Store(&noTerms)
	}
	return false
}
