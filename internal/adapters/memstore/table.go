package memstore

import "github.com/velocity-limiter/velocity/internal/domain"

// table is a hash table of buckets with open addressing and linear probing. It holds no pointers, so that a million
// buckets cost the garbage collector nothing.
//
// Its three parts are apart for the sake of the processor's cache: the small slots mostly stay in it, and once a slot
// is known, name and bucket, which mostly are not, can be fetched at the same time. The buckets of one group share
// their tag and so lie side by side.
type table struct {
	slots   []slot
	buckets []held // buckets[i] belongs to slots[i]
	names   names
	used    int
}

// slot says whose bucket is here.
type slot struct {
	// tag is 0 if the slot is free.
	tag  uint32
	name nameRef
}

// held is a bucket in the table.
type held struct {
	domain.Bucket
	// fullAt is when the bucket is full again by the limit that wrote it. From then on it means nothing.
	fullAt domain.Instant
}

const minSlots = 8

func newTable(slots int) table {
	return table{slots: make([]slot, slots), buckets: make([]held, slots)}
}

// tagOf makes a hash's tag. It sets the lowest bit, since 0 is a free slot; home looks at the high bits.
func tagOf(hash uint64) uint32 { return uint32(hash) | 1 }

// home maps a tag evenly to the slots, of any number: the high half of tag * slots.
func (t *table) home(tag uint32) int {
	return int(uint64(tag) * uint64(len(t.slots)) >> 32)
}

func (t *table) next(i int) int {
	if i++; i < len(t.slots) {
		return i
	}
	return 0
}

// find returns a bucket and its slot; -1 if there is none. It reads the bucket before it compares the name: both
// are likely to be far away, and so they come together.
func (t *table) find(tag uint32, key domain.BucketKey, limit string) (held, int) {
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

// crowded reports whether an insertion needs a larger table: from 7/8 on, searches become long.
func (t *table) crowded() bool { return t.used >= len(t.slots)*7/8 }

// insert adds a bucket that is not in the table, which must not be crowded.
func (t *table) insert(tag uint32, key domain.BucketKey, limit string, h held) {
	if t.names.wasteful() {
		t.rebuild(len(t.slots))
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

// remove empties a slot and closes the gap, so that no search ends early: what had been pushed past the slot
// moves back. So the slot may hold another bucket afterwards: one that lay behind it, going round.
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

// distance is how many steps of next lead from one slot to another.
func (t *table) distance(from, to int) int {
	if to >= from {
		return to - from
	}
	return to - from + len(t.slots)
}

// rebuild moves everything to a table of so many slots, without the names that were dropped.
func (t *table) rebuild(slots int) {
	old := *t
	*t = newTable(slots)
	for i, s := range old.slots {
		if s.tag != 0 {
			t.place(slot{s.tag, t.names.addFrom(&old.names, s.name)}, old.buckets[i])
		}
	}
}
