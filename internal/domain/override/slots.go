package override

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// slots is a hash table with open addressing. Eight slots are a group. A search looks at one group after the other, from that of the hash on,
// until a group has a free slot. A record never moves and never changes, so readers need no lock: a change adds a record, and then removes
// the old one. To make room, the records that are left are copied into another table.
//
// A search mostly waits for memory. So a tag is one byte: most of them lie in the processor's cache, those of a group are compared at once,
// and they tell nearly all clients that have no record. The record has the index of its tag, and the key lies in it.
type slots struct {
	tags    []atomic.Uint64 // those of a group in each
	records []Record        // each is written before its tag
}

// The tags of slots without a record.
const (
	tagFree    = iota // searches end with this group
	tagRemoved        // readers may still have the record
	firstTag
)

const (
	groupSize  = 8
	leastSlots = 64
)

func newSlots(size int) *slots {
	groups := (size + groupSize - 1) / groupSize
	return &slots{make([]atomic.Uint64, groups), make([]Record, groups*groupSize)}
}

// place returns the group where the search for a hash starts, and its tag, which is another part of the hash.
func (s *slots) place(hash uint64) (group int, tag uint8) {
	high, _ := bits.Mul64(hash, uint64(len(s.tags)))
	return int(high), max(uint8(hash), firstTag)
}

func (s *slots) next(group int) int {
	if group++; group < len(s.tags) {
		return group
	}
	return 0
}

// matching returns the highest bit of each of a group's tags that is this one. It is exact: no tag beside a match counts as one, as with
// shorter forms.
func matching(tags uint64, tag uint8) uint64 {
	const ones, low = 0x0101010101010101, 0x7f7f7f7f7f7f7f7f
	different := tags ^ ones*uint64(tag)
	return ^(different&low + low | different | low)
}

// firstOf returns the index of the first slot of those that matching returned for a group.
func firstOf(group int, matches uint64) int { return group*groupSize + bits.TrailingZeros64(matches)/8 }

// setTag needs Table.mu.
func (s *slots) setTag(i int, tag uint8) {
	tags, shift := &s.tags[i/groupSize], i%groupSize*8
	tags.Store(tags.Load()&^(0xff<<shift) | uint64(tag)<<shift)
}

// find returns the index of a key's record, or -1.
func (s *slots) find(hash uint64, key clientkey.BucketKey) int {
	for group, tag := s.place(hash); ; group = s.next(group) {
		tags := s.tags[group].Load()
		for matches := matching(tags, tag); matches != 0; matches &= matches - 1 {
			if i := firstOf(group, matches); s.records[i].is(key) {
				return i
			}
		}
		if matching(tags, tagFree) != 0 {
			return -1
		}
	}
}

// add adds a record. If there is another one of its key, that one must be removed then.
func (s *slots) add(hash uint64, r *Record) {
	group, tag := s.place(hash)
	free := matching(s.tags[group].Load(), tagFree)
	for free == 0 {
		group = s.next(group)
		free = matching(s.tags[group].Load(), tagFree)
	}
	i := firstOf(group, free)
	s.records[i] = *r
	s.setTag(i, tag)
}

func (s *slots) remove(i int) { s.setTag(i, tagRemoved) }

// all calls f for each record.
func (s *slots) all(f func(*Record)) {
	for i := range s.records {
		if tag := s.tags[i/groupSize].Load() >> (i % groupSize * 8); uint8(tag) >= firstTag {
			f(&s.records[i])
		}
	}
}

// Record is one entry as a table holds it. It is immutable. It has the size of a line of the processor's cache.
type Record struct {
	effect  *effect        // nil if the override has ended
	rest    string         // numbers, then the key if it is long, the client unless the key implies it, and the note
	expires bool           // by the expiry in rest
	size    uint8          // of short
	short   [shortKey]byte // the key, if it is not long
}

const (
	shortKey  = 38
	keyInRest = shortKey + 1 // in place of the size of a longer key
)

// Where the numbers of Record.rest are: the first two have 8 bytes, the others 4.
const (
	atVersion    = 0
	atExpiry     = 8
	atKeySize    = 16
	atClientSize = 20
	atText       = 24
)

func newRecord(e *Entry, f *effect) Record {
	key, client := string(e.Key), e.Client
	if client == implied(e.Key) {
		client = ""
	}
	r := Record{effect: f, expires: e.ExpiresAt != 0, size: uint8(min(len(key), keyInRest))}
	if r.size < keyInRest {
		copy(r.short[:], key)
		key = ""
	}
	var numbers [atText]byte
	binary.LittleEndian.PutUint64(numbers[atVersion:], uint64(e.Version))
	binary.LittleEndian.PutUint64(numbers[atExpiry:], uint64(e.ExpiresAt))
	binary.LittleEndian.PutUint32(numbers[atKeySize:], uint32(len(key)))
	binary.LittleEndian.PutUint32(numbers[atClientSize:], uint32(len(client)))
	r.rest = string(numbers[:]) + key + client + e.Note
	return r
}

func (r *Record) time(at int) domain.Instant {
	return domain.Instant(binary.LittleEndian.Uint64([]byte(r.rest[at : at+8])))
}

// text returns the key if it is long, and what follows it.
func (r *Record) text() (key, text string) {
	end := atText + binary.LittleEndian.Uint32([]byte(r.rest[atKeySize:atKeySize+4]))
	return r.rest[atText:end], r.rest[end:]
}

// is reports whether the record has a key.
func (r *Record) is(key clientkey.BucketKey) bool {
	if r.size < keyInRest {
		return string(r.short[:r.size]) == string(key)
	}
	long, _ := r.text()
	return long == string(key)
}

func (r *Record) key() clientkey.BucketKey {
	if r.size < keyInRest {
		return clientkey.BucketKey(r.short[:r.size])
	}
	long, _ := r.text()
	return clientkey.BucketKey(long)
}

// ExpiresAt is when the override ends; 0: never.
func (r *Record) ExpiresAt() domain.Instant {
	if !r.expires {
		return 0
	}
	return r.time(atExpiry)
}

// Entry returns the entry.
func (r *Record) Entry() Entry {
	e := Entry{Key: r.key(), Version: r.time(atVersion), Ended: r.effect == nil}
	if !e.Ended {
		_, text := r.text()
		size := binary.LittleEndian.Uint32([]byte(r.rest[atClientSize:atText]))
		e.Value = Value{
			Effect: r.effect.text, ExpiresAt: r.ExpiresAt(), Client: cmp.Or(text[:size], implied(e.Key)), Note: text[size:],
		}
	}
	return e
}
