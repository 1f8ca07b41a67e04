package override

import (
	"cmp"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// Table is this process's copy of the entries. Make it with [NewTable]. It is safe for concurrent use; [Table.Find] and
// [Table.Has] take no lock and allocate nothing.
type Table struct {
	seed   maphash.Seed
	slots  atomic.Pointer[slots]
	owners atomic.Pointer[map[string]bool] // that have overrides; copied to be changed

	mu       sync.Mutex // guards what follows, and changes of the above
	taken    int        // slots that are not empty
	stats    Stats
	expiring int // how many have an ExpiresAt
	owned    map[string]*owner

	rules rulesCache
}

// slots is a hash table with linear probing. Its size is a power of two, and a quarter of it at least is empty. A slot that is not empty
// never becomes empty again, so readers need no lock; to grow, all records are copied into another table.
type slots []atomic.Pointer[Record]

// removed is in the slots from which a record was removed.
var removed = new(Record)

const leastSlots = 64

// of returns the slot of a key, or the first one that is empty.
func (s slots) of(hash uint64, key clientkey.BucketKey) *atomic.Pointer[Record] {
	for i := hash; ; i++ {
		slot := &s[i&uint64(len(s)-1)]
		if r := slot.Load(); r == nil || r.tag == tag(hash) && r.key == key {
			return slot
		}
	}
}

// tag is a part of the hash that does not choose the slot. Most keys that differ need not be compared.
func tag(hash uint64) uint32 { return uint32(hash >> 32) } //nolint:gosec // a part of it

// Stats describe a table.
type Stats struct {
	// Sum is that of the entries' hashes, modulo 2^48: tables with equal entries have equal sums.
	Sum uint64
	// Entries counts all, and Live those that have not ended, expired ones included.
	Entries, Live int
	// Bytes is the size of the entries as they are stored.
	Bytes int
}

// Record is one entry as a table holds it. It is immutable.
type Record struct {
	key        clientkey.BucketKey
	version    domain.Instant
	expiresAt  domain.Instant
	effect     *effect // nil if the override has ended
	text       string  // the client, unless the key implies it, and the note
	clientSize uint32
	tag        uint32
}

// owner is a policy, or a shared limit, that has overrides. Table.mu guards it, but for its name.
type owner struct {
	name      string
	overrides int
	effects   map[string]*effect // by their texts
}

// effect is shared by the records of one owner that do the same.
type effect struct {
	owner   *owner
	text    string
	records int // guarded by Table.mu
	rules   atomic.Pointer[Rules]
}

// NewTable returns an empty table.
func NewTable() *Table {
	t := &Table{seed: maphash.MakeSeed(), owned: make(map[string]*owner)}
	empty := make(slots, leastSlots)
	t.slots.Store(&empty)
	return t
}

// Has reports whether a policy, or a shared limit, has overrides. Expired ones may count.
func (t *Table) Has(owner string) bool {
	owners := t.owners.Load()
	return owners != nil && (*owners)[owner]
}

// Owners returns the policies and shared limits that have overrides, in no order. Expired ones may count.
func (t *Table) Owners() []string {
	owners := t.owners.Load()
	if owners == nil {
		return nil
	}
	return slices.Collect(maps.Keys(*owners))
}

// Find returns the override of a client, or nil. It may have expired.
func (t *Table) Find(key clientkey.BucketKey) *Record {
	r := t.record(key)
	if r == nil || r.effect == nil {
		return nil
	}
	return r
}

func (t *Table) record(key clientkey.BucketKey) *Record {
	return t.slots.Load().of(t.hash(key), key).Load()
}

func (t *Table) hash(key clientkey.BucketKey) uint64 { return maphash.String(t.seed, string(key)) }

// ExpiresAt is when the override ends; 0: never.
func (r *Record) ExpiresAt() domain.Instant { return r.expiresAt }

// Entry returns the entry.
func (r *Record) Entry() Entry {
	e := Entry{Key: r.key, Version: r.version, Ended: r.effect == nil}
	if !e.Ended {
		e.Value = Value{Effect: r.effect.text, ExpiresAt: r.expiresAt, Client: r.text[:r.clientSize], Note: r.text[r.clientSize:]}
		e.Client = cmp.Or(e.Client, implied(r.key))
	}
	return e
}

// Get returns the newest entry of a key, which may say that the override has ended. It reports false if there is none.
func (t *Table) Get(key clientkey.BucketKey) (Entry, bool) {
	if r := t.record(key); r != nil {
		return r.Entry(), true
	}
	return Entry{}, false
}

// Merge adds the entries that are newer than those of the table, and returns how many there were.
func (t *Table) Merge(entries ...Entry) (newer int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range entries {
		e := &entries[i]
		old := t.record(e.Key)
		if old != nil {
			if known := old.Entry(); !e.NewerThan(&known) {
				continue
			}
		}
		t.putLocked(old, e)
		newer++
	}
	return newer
}

// Drop removes those of the entries that the table still has unchanged.
func (t *Table) Drop(entries ...Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range entries {
		if old := t.record(entries[i].Key); old != nil && old.Entry() == entries[i] {
			t.putLocked(old, nil)
		}
	}
}

// putLocked replaces a record, or nil, by that of an entry, or by nothing.
func (t *Table) putLocked(old *Record, e *Entry) {
	key := clientkey.BucketKey("")
	if old != nil {
		key = old.key
	} else {
		key = clientkey.BucketKey(strings.Clone(string(e.Key)))
	}
	hash := t.hash(key)
	slot := t.slots.Load().of(hash, key)
	if e == nil {
		slot.Store(removed)
	} else {
		if slot.Load() == nil {
			t.growLocked()
			slot = t.slots.Load().of(hash, key)
			t.taken++
		}
		r := t.newRecordLocked(key, e)
		r.tag = tag(hash)
		slot.Store(r)
	}
	if e != nil {
		t.countLocked(e, 1)
	}
	if old != nil {
		was := old.Entry()
		t.countLocked(&was, -1)
		if old.effect != nil {
			t.releaseLocked(old.effect)
		}
	}
}

// growLocked makes sure that one more slot can be taken.
func (t *Table) growLocked() {
	old := *t.slots.Load()
	if (t.taken+1)*4 <= len(old)*3 {
		return
	}
	size := leastSlots
	for size*2 < (t.stats.Entries+1)*3 { // a third of it is empty then, at least
		size *= 2
	}
	grown := make(slots, size)
	t.taken = 0
	for i := range old {
		if r := old[i].Load(); r != nil && r != removed {
			grown.of(t.hash(r.key), r.key).Store(r)
			t.taken++
		}
	}
	t.slots.Store(&grown)
}

func (t *Table) newRecordLocked(key clientkey.BucketKey, e *Entry) *Record {
	r := &Record{key: key, version: e.Version, expiresAt: e.ExpiresAt}
	if e.Ended {
		return r
	}
	client := e.Client
	if client == implied(key) {
		client = ""
	}
	r.text, r.clientSize = strings.Clone(client+e.Note), uint32(len(client))
	r.effect = t.effectLocked(e)
	return r
}

// effectLocked returns what an entry does, for one more record.
func (t *Table) effectLocked(e *Entry) *effect {
	name := e.Owner()
	o := t.owned[name]
	if o == nil {
		o = &owner{name: strings.Clone(name), effects: make(map[string]*effect)}
		t.owned[o.name] = o
		t.publishOwnersLocked()
	}
	f := o.effects[e.Effect]
	if f == nil {
		f = &effect{owner: o, text: strings.Clone(e.Effect)}
		o.effects[f.text] = f
	}
	o.overrides++
	f.records++
	return f
}

// releaseLocked takes one record away from an effect.
func (t *Table) releaseLocked(f *effect) {
	if f.records--; f.records == 0 {
		delete(f.owner.effects, f.text)
	}
	if f.owner.overrides--; f.owner.overrides == 0 {
		delete(t.owned, f.owner.name)
		t.publishOwnersLocked()
	}
}

// publishOwnersLocked shows readers who has overrides.
func (t *Table) publishOwnersLocked() {
	owners := make(map[string]bool, len(t.owned))
	for name := range t.owned {
		owners[name] = true
	}
	t.owners.Store(&owners)
}

// countLocked adds an entry to the statistics, or takes it away.
func (t *Table) countLocked(e *Entry, change int) {
	t.stats.Sum = (t.stats.Sum + uint64(change)*e.Hash()) & (1<<HashBits - 1)
	t.stats.Entries += change
	t.stats.Bytes += change * (len(e.Key) + len(e.Text()))
	if !e.Ended {
		t.stats.Live += change
		if e.ExpiresAt != 0 {
			t.expiring += change
		}
	}
}

// Stats returns the counts.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stats
}

// InForce counts the overrides that change decisions at this time.
func (t *Table) InForce(now domain.Instant) int {
	t.mu.Lock()
	live, expiring := t.stats.Live, t.expiring
	t.mu.Unlock()
	if expiring > 0 {
		t.all(func(r *Record) {
			if r.effect != nil && r.expiresAt != 0 && r.expiresAt <= now {
				live--
			}
		})
	}
	return max(live, 0)
}

// all calls f for each record. Those that change meanwhile may be left out.
func (t *Table) all(f func(*Record)) {
	all := *t.slots.Load()
	for i := range all {
		if r := all[i].Load(); r != nil && r != removed {
			f(r)
		}
	}
}

// All calls f for each entry. Those that change meanwhile may be left out.
func (t *Table) All(f func(Entry)) { t.all(func(r *Record) { f(r.Entry()) }) }

// Due returns the ends of the overrides that have expired, to be merged, and the entries that need not be kept, to be dropped.
func (t *Table) Due(now domain.Instant) (ends, forgotten []Entry) {
	t.all(func(r *Record) {
		if r.effect != nil && r.expiresAt == 0 {
			return
		}
		switch e := r.Entry(); {
		case e.expired(now):
			ends = append(ends, e.End())
		case e.Forgotten(now):
			forgotten = append(forgotten, e)
		}
	})
	return ends, forgotten
}
