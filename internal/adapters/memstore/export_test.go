package memstore

import (
	"unsafe"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// MonotonicClock is the clock of a new store.
var MonotonicClock = monotonicClock

// SetClock replaces the store's clock, which is read only under the lock of a stripe.
func (s *Store) SetClock(now func() domain.Instant) {
	for i := range s.stripes {
		s.stripes[i].mu.Lock()
		defer s.stripes[i].mu.Unlock()
	}
	s.now = now
}

// Holds reports whether the store keeps a bucket for key that is not full again.
func (s *Store) Holds(key clientkey.BucketKey) bool {
	st, tag := s.locate(key)
	st.mu.Lock()
	defer st.mu.Unlock()
	for i, slot := range st.slots {
		if slot.tag == tag && st.buckets[i].fullAt > s.now() {
			if k, _ := st.names.at(slot.name); k == key {
				return true
			}
		}
	}
	return false
}

// StripeOf returns the number of a key's stripe.
func (s *Store) StripeOf(key clientkey.BucketKey) int {
	st, _ := s.locate(key)
	for i := range s.stripes {
		if st == &s.stripes[i] {
			return i
		}
	}
	return -1
}

// Bytes returns the memory of the tables.
func (s *Store) Bytes() int {
	total := 0
	for i := range s.stripes {
		st := &s.stripes[i]
		st.mu.Lock()
		total += cap(st.slots)*int(unsafe.Sizeof(slot{})) + cap(st.buckets)*int(unsafe.Sizeof(held{})) + cap(st.names.bytes)
		st.mu.Unlock()
	}
	return total
}

// NameBytes returns the memory in use for names, with that of dropped ones.
func (s *Store) NameBytes() int {
	n := 0
	for i := range s.stripes {
		s.stripes[i].mu.Lock()
		n += len(s.stripes[i].names.bytes)
		s.stripes[i].mu.Unlock()
	}
	return n
}

// PermitSets returns how many limits of clients have permits.
func (s *Store) PermitSets() int {
	n := 0
	for i := range s.stripes {
		s.stripes[i].mu.Lock()
		n += len(s.stripes[i].permits.sets)
		s.stripes[i].mu.Unlock()
	}
	return n
}

// Sweep sweeps every stripe now.
func (s *Store) Sweep() { s.sweepStripes(0, len(s.stripes)) }

// Name is a bucket's.
type Name struct {
	Key   clientkey.BucketKey
	Limit domain.Limit
}

// FindWithOneTag reports which names are found in a table that holds one, if the tags of all are the same.
func FindWithOneTag(holds Name, asked []Name) []bool {
	t, found := newTable(minSlots), make([]bool, len(asked))
	t.insert(1, holds.Key, &holds.Limit, held{})
	for i, n := range asked {
		_, slot := t.find(1, n.Key, &n.Limit)
		found[i] = slot >= 0
	}
	return found
}
