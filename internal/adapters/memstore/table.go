package memstore

import (
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// table is a hash table of buckets with open addressing and linear probing. It holds no pointers, so the garbage collector
// does not scan it.
//
// It has three slices because of the processor's cache. The slots are small and mostly stay in the cache; name and bucket
// mostly are not in it, and can be fetched at the same time once the slot is known. The buckets of a group have the same
// tag and therefore lie side by side.
type table struct {
	slots   []slot
	buckets []held // buckets[i] belongs to slots[i]
	names   names
	used    int
}

// slot says which bucket is at an index.
type slot struct {
	// tag is 0 if the slot is free.
	tag  uint32
	name nameRef
}

// held is a bucket in the table, or a quota.
type held struct {
	domain.State
	// fullAt is when the bucket is full again, or the quota's period ends, by the limit that wrote it. From then on the bucket
	// counts as missing.
	fullAt domain.Instant
}

const minSlots = 8

func newTable(slots int) table {
	return table{slots: make([]slot, slots), buckets: make([]held, slots)}
}

// tagOf returns the tag of a hash. It is never 0, which marks a free slot.
func tagOf(hash uint64) uint32 { return uint32(hash) | 1 }

// home returns the slot where the search for a tag starts: the high half of tag * slots, which is even for any number.
func (t *table) home(tag uint32) int {
	return int(uint64(tag) * uint64(len(t.slots)) >> 32)
}

func (t *table) next(i int) int {
	if i++; i < len(t.slots) {
		return i
	}
	return 0
}

// find returns a bucket and its slot, or -1 if there is none. It reads the bucket before it compares the name, so that the
// processor fetches both at the same time.
func (t *table) find(tag uint32, key clientkey.BucketKey, limit *domain.Limit) (held, int) {
	for i := t.home(tag); ; i = t.next(i) {
		switch s := t.slots[i]; s.tag {
		case tag:
			if h := t.buckets[i]; t.names.equal(s.name, key, limit) {
				return h, i
			}
		case 0:
			return held{}, -1
		}
	}
}

// needsGrow reports whether an insertion needs a larger table. Searches become long when 7/8 of the slots are used.
func (t *table) needsGrow() bool { return t.used >= len(t.slots)*7/8 }

// insert adds a bucket. It must not be in the table, and needsGrow must be false.
func (t *table) insert(tag uint32, key clientkey.BucketKey, limit *domain.Limit, h held) {
	if t.names.wasteful() {
		t.names.compact(t.slots)
	}
	t.place(slot{tag, t.names.add(key, limit)}, h)
}

func (t *table) place(s slot, h held) {
	i := t.home(s.tag)
	for t.slots[i].tag != 0 {
		i = t.next(i)
	}
	t.slots[i], t.buckets[i] = s, h
	t.used++
}

// remove empties a slot and closes the gap, so that no search ends early. The slot may hold another bucket afterwards: one
// that had to be placed behind it.
func (t *table) remove(gap int) {
	t.names.drop(t.slots[gap].name)
	for i := t.next(gap); t.slots[i].tag != 0; i = t.next(i) {
		if t.distance(t.home(t.slots[i].tag), i) >= t.distance(gap, i) {
			t.slots[gap], t.buckets[gap] = t.slots[i], t.buckets[i]
			gap = i
		}
	}
	t.slots[gap] = slot{}
	t.used--
}

// distance returns the number of steps from one slot to another, with wrap-around.
func (t *table) distance(from, to int) int {
	if to >= from {
		return to - from
	}
	return to - from + len(t.slots)
}

// resize moves all buckets to a table with the given number of slots.
func (t *table) resize(slots int) {
	old := *t
	*t = newTable(slots)
	t.names = old.names
	for i, s := range old.slots {
		if s.tag != 0 {
			t.place(s, old.buckets[i])
		}
	}
}
