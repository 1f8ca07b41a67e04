package override

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// Table is this process's copy of the entries. Make it with [NewTable]. It is safe for concurrent use; [Table.Find], [Table.Has]
// and [Table.Empty] take no lock and allocate nothing.
type Table struct {
	seeds  seeds
	index  atomic.Pointer[index]           // of the overrides that have not ended
	owners atomic.Pointer[map[string]bool] // that have overrides; copied to be changed; nil: none has

	mu       sync.Mutex // guards what follows, and changes of the above
	records  map[clientkey.BucketKey]*record
	most     int // the largest size of that map
	taken    int // places of the index that are not free
	stats    Stats
	expiring int               // how many have an ExpiresAt
	owned    map[string]*owner // by their names

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

// owner is a policy, or a shared limit, that has overrides. Table.mu guards it.
type owner struct {
	overrides int
	effects   map[string]*effect // by their texts
}

// effect is shared by the overrides of one owner that do the same.
type effect struct {
	rules   atomic.Pointer[Rules]
	always  Terms // of the overrides that do not expire
	text    string
	records int // guarded by Table.mu
}

// Terms say what an override does, and until when. They are immutable.
type Terms struct {
	effect    *effect
	expiresAt domain.Instant
}

// ExpiresAt is when the override ends; 0: never.
func (t *Terms) ExpiresAt() domain.Instant { return t.expiresAt }

// NewTable returns an empty table.
func NewTable() *Table {
	t := &Table{seeds: newSeeds(), owned: make(map[string]*owner), records: make(map[clientkey.BucketKey]*record)}
	t.index.Store(newIndex(leastPlaces))
	return t
}

// Empty reports whether there is no override. Expired ones may count.
func (t *Table) Empty() bool { return t.owners.Load() == nil }

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

// Find returns the terms of a client's override, or nil. They may have expired.
func (t *Table) Find(key clientkey.BucketKey) *Terms { return t.index.Load().termsOf(t.seeds.of(key)) }

// Get returns the newest entry of a key, which may say that the override has ended. It reports false if there is none.
func (t *Table) Get(key clientkey.BucketKey) (Entry, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.records[key]; r != nil {
		return r.entry(), true
	}
	return Entry{}, false
}

// Merge adds the entries that are newer than those of the table, and returns how many there were.
func (t *Table) Merge(entries ...Entry) (newer int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range entries {
		e := &entries[i]
		old := t.records[e.Key]
		if old != nil {
			if known := old.entry(); !e.NewerThan(&known) {
				continue
			}
		}
		t.putLocked(old, newRecord(e, t.termsLocked(e)))
		newer++
	}
	return newer
}

// Drop removes those of the entries that the table still has unchanged.
func (t *Table) Drop(entries ...Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range entries {
		if old := t.records[entries[i].Key]; old != nil && old.entry() == entries[i] {
			t.putLocked(old, nil)
		}
	}
	if t.most > leastPlaces && len(t.records)*4 < t.most {
		t.shrinkLocked()
	}
}

// putLocked replaces the record of a key, or nil, by another, or by nil.
func (t *Table) putLocked(old, r *record) {
	if r != nil {
		t.records[r.key] = r
		t.most = max(t.most, len(t.records))
		t.countLocked(r, 1)
		t.indexLocked(r.key, r.terms)
	} else {
		delete(t.records, old.key)
		t.indexLocked(old.key, nil)
	}
	if old != nil {
		t.countLocked(old, -1)
		if old.terms != nil {
			t.releaseLocked(old)
		}
	}
}

// indexLocked shows readers the terms of a key's override; nil: it has none. It keeps a third of the index free.
func (t *Table) indexLocked(key clientkey.BucketKey, terms *Terms) {
	if t.index.Load().set(t.seeds.of(key), terms) {
		if t.taken++; t.taken*3 > len(t.index.Load().places)*2 {
			t.reindexLocked()
		}
	}
}

// reindexLocked makes another index, at least half of which is free. Where most entries have ended it is larger than the live ones need:
// it reads all records, so it must not run often.
func (t *Table) reindexLocked() {
	index := newIndex(max(leastPlaces, t.stats.Live*2, t.stats.Entries/8))
	for key, r := range t.records {
		if r.terms != nil {
			index.set(t.seeds.of(key), r.terms)
		}
	}
	t.taken = t.stats.Live
	t.index.Store(index)
}

// shrinkLocked makes the maps and the index anew: a map keeps the memory of what was removed from it.
func (t *Table) shrinkLocked() {
	records := make(map[clientkey.BucketKey]*record, len(t.records))
	maps.Copy(records, t.records)
	t.records, t.most = records, len(records)
	for _, o := range t.owned {
		o.effects = maps.Collect(maps.All(o.effects))
	}
	t.reindexLocked()
}

// termsLocked returns the terms of an entry, for one more record; nil if it has ended.
func (t *Table) termsLocked(e *Entry) *Terms {
	if e.Ended {
		return nil
	}
	name := e.Owner()
	o := t.owned[name]
	if o == nil {
		o = &owner{effects: make(map[string]*effect)}
		t.owned[strings.Clone(name)] = o
		t.publishOwnersLocked()
	}
	f := o.effects[e.Effect]
	if f == nil {
		f = &effect{text: strings.Clone(e.Effect)}
		f.always.effect = f
		o.effects[f.text] = f
	}
	o.overrides++
	f.records++
	if e.ExpiresAt == 0 {
		return &f.always
	}
	return &Terms{effect: f, expiresAt: e.ExpiresAt}
}

// releaseLocked takes a record away from its effect.
func (t *Table) releaseLocked(r *record) {
	name, f := ownerOf(r.key), r.terms.effect
	o := t.owned[name]
	if f.records--; f.records == 0 {
		delete(o.effects, f.text)
	}
	if o.overrides--; o.overrides == 0 {
		delete(t.owned, name)
		t.publishOwnersLocked()
	}
}

// publishOwnersLocked shows readers who has overrides.
func (t *Table) publishOwnersLocked() {
	if len(t.owned) == 0 {
		t.owners.Store(nil)
		return
	}
	owners := make(map[string]bool, len(t.owned))
	for name := range t.owned {
		owners[name] = true
	}
	t.owners.Store(&owners)
}

// countLocked adds a record to the statistics, or takes it away.
func (t *Table) countLocked(r *record, change int) {
	e := r.entry()
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
	for _, r := range t.records {
		if r.terms != nil && (r.terms.expiresAt == 0 || r.terms.expiresAt > now) {
			inForce++
		}
	}
	return inForce
}

// all calls f for each record that there was at one moment.
func (t *Table) all(f func(*record)) {
	t.mu.Lock()
	records := slices.AppendSeq(make([]*record, 0, len(t.records)), maps.Values(t.records))
	t.mu.Unlock()
	for _, r := range records {
		f(r)
	}
}

// All calls f for each entry that there was at one moment.
func (t *Table) All(f func(Entry)) { t.all(func(r *record) { f(r.entry()) }) }

// Due returns the ends of the overrides that have expired, to be merged, and the entries that need not be kept, to be dropped.
func (t *Table) Due(now domain.Instant) (ends, forgotten []Entry) {
	t.all(func(r *record) {
		if r.terms != nil && r.terms.expiresAt == 0 {
			return
		}
		switch e := r.entry(); {
		case e.expired(now):
			ends = append(ends, e.End())
		case e.Forgotten(now):
			forgotten = append(forgotten, e)
		}
	})
	return ends, forgotten
}
