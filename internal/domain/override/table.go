package override

import (
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
	taken    int        // slots that are not free
	stats    Stats
	expiring int // how many have an ExpiresAt
	owned    map[string]*owner

	rules rulesCache
}

// Stats describe a table.
type Stats struct {
	// Sum is that of the entries' hashes, modulo 2^48: tables with equal entries have equal sums.
	Sum uint64
	// Entries counts all, and Live those that have not ended, expired ones included.
	Entries, Live int
	// Bytes is the size of the entries as they are stored.
	Bytes int
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
	t.slots.Store(newSlots(leastSlots))
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
	s := t.slots.Load()
	if i := s.find(t.hash(key), key); i >= 0 {
		return &s.records[i]
	}
	return nil
}

func (t *Table) hash(key clientkey.BucketKey) uint64 { return maphash.String(t.seed, string(key)) }

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
		t.putLocked(e.Key, old, e)
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
			t.putLocked(entries[i].Key, old, nil)
		}
	}
	if n := len(t.slots.Load().records); n > leastSlots && t.stats.Entries*4 < n {
		t.rebuildLocked()
	}
}

// putLocked replaces the record of a key, or nil, by that of an entry, or by nothing.
func (t *Table) putLocked(key clientkey.BucketKey, old *Record, e *Entry) {
	if e != nil {
		t.growLocked()
	}
	s, hash := t.slots.Load(), t.hash(key)
	at := s.find(hash, key)
	if e != nil {
		r := newRecord(e, t.effectLocked(e))
		s.add(hash, &r)
		t.taken++
		t.countLocked(e, 1)
	}
	if old != nil {
		s.remove(at)
		was := old.Entry()
		t.countLocked(&was, -1)
		if old.effect != nil {
			t.releaseLocked(old.effect)
		}
	}
}

// growLocked makes sure that one more slot can be taken, and that a fifth of them is free.
func (t *Table) growLocked() {
	if (t.taken+1)*5 > len(t.slots.Load().records)*4 {
		t.rebuildLocked()
	}
}

// rebuildLocked copies the records into slots of which a third is free.
func (t *Table) rebuildLocked() {
	rebuilt := newSlots(max(leastSlots, t.stats.Entries*3/2))
	t.slots.Load().all(func(r *Record) { rebuilt.add(t.hash(r.key()), r) })
	t.taken = t.stats.Entries
	t.slots.Store(rebuilt)
}

// effectLocked returns what an entry does, for one more record; nil if it has ended.
func (t *Table) effectLocked(e *Entry) *effect {
	if e.Ended {
		return nil
	}
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
	defer t.mu.Unlock()
	if t.expiring == 0 {
		return t.stats.Live
	}
	inForce := 0
	t.slots.Load().all(func(r *Record) {
		if r.effect != nil && (!r.expires || r.ExpiresAt() > now) {
			inForce++
		}
	})
	return inForce
}

// all calls f for each record that there was at one moment.
func (t *Table) all(f func(*Record)) {
	t.mu.Lock()
	records := make([]*Record, 0, t.stats.Entries)
	t.slots.Load().all(func(r *Record) { records = append(records, r) })
	t.mu.Unlock()
	for _, r := range records {
		f(r)
	}
}

// All calls f for each entry that there was at one moment.
func (t *Table) All(f func(Entry)) { t.all(func(r *Record) { f(r.Entry()) }) }

// Due returns the ends of the overrides that have expired, to be merged, and the entries that need not be kept, to be dropped.
func (t *Table) Due(now domain.Instant) (ends, forgotten []Entry) {
	t.all(func(r *Record) {
		if r.effect != nil && !r.expires {
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
