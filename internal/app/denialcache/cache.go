// Package denialcache repeats denials without asking the store again. A client that is over its limit and keeps asking
// then costs the store nothing.
package denialcache

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/maypok86/otter/v2"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/violation"
)

// Cache is a [ports.BucketStore] that stands in front of another one and answers a take itself if the other store would
// deny it. It passes every other request on.
//
// After a denial the cache keeps the states that the store returned. Until tokens are given back, a bucket holds at most
// those tokens and what was refilled since, and of a quota at most as much is left until its period ends. If this much
// cannot pay the cost, nor what the buckets lend to a take that may wait, the store would deny too. Permits of a concurrency limit
// deny nothing here.
//
// An entry has two times of this process's clock. Verdicts count from the time before the call was sent, so the copy
// never holds fewer tokens than the bucket. Waits count from the time after the reply, so waiting that long is always
// enough; they are at most one round trip too long.
//
// A Cache is safe for concurrent use.
type Cache struct {
	store   ports.BucketStore
	clock   func() time.Duration
	maxAge  time.Duration
	entries *otter.Cache[clientkey.BucketKey, *denial]
	slots   [1 << 12]slot // by the hash of a key
	hits    atomic.Uint64
	calls   sync.Pool // of *call
}

// slot is what is known of all keys of one hash. Reading it costs much less than looking for an entry.
type slot struct {
	// generation counts operations that may have given tokens back. Denials of an earlier generation are void, including those
	// whose reply has not arrived yet.
	generation atomic.Uint64
	// deniedUntil is the time by clock after which every entry is too old. Of two that are set at the same moment, the one that
	// lasts longer may end with the other.
	deniedUntil atomic.Int64
}

var _ ports.BucketStore = (*Cache)(nil)

// denial is what the store's last denial of a key showed. It is immutable.
type denial struct {
	limits     []domain.Limit
	states     []domain.State
	storeNow   domain.Instant
	sent       time.Duration // by clock, before the call
	received   time.Duration // by clock, after the reply
	generation uint64
}

// New returns a cache in front of store. clock must be monotonic; its zero may be any moment. Close the cache after use.
func New(cfg Config, store ports.BucketStore, clock func() time.Duration) (*Cache, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	entries, err := otter.New(&otter.Options[clientkey.BucketKey, *denial]{
		MaximumWeight:    uint64(max(cfg.MaxEntries, 1)),
		Weigher:          func(key clientkey.BucketKey, d *denial) uint32 { return uint32(1 + len(key)/256 + len(d.states)/8) },
		ExpiryCalculator: otter.ExpiryWriting[clientkey.BucketKey, *denial](cfg.MaxAge),
	})
	if err != nil {
		return nil, fmt.Errorf("denial cache: %w", err)
	}
	return &Cache{
		store: store, clock: clock, maxAge: cfg.MaxAge, entries: entries,
		calls: sync.Pool{New: func() any { return new(call) }},
	}, nil
}

// Close stops the cache's goroutines. It does not close the store behind the cache.
func (c *Cache) Close() { c.entries.StopAllGoroutines() }

// Hits returns how many takes the cache has denied without asking the store.
func (c *Cache) Hits() uint64 { return c.hits.Load() }

// Len returns about how many denials the cache remembers.
func (c *Cache) Len() int { return c.entries.EstimatedSize() }

// Clear makes every denial void. Call it after a failover: the new primary may have lost what the old one had counted.
func (c *Cache) Clear() {
	for i := range c.slots {
		c.slots[i].generation.Add(1)
	}
	c.entries.InvalidateAll()
}

// Now is the time by the cache's clock.
func (c *Cache) Now() time.Duration { return c.clock() }

// KnownDenied reports whether the store is known to deny a take at now, and fills in result if it is. It asks no store and takes
// nothing. A caller that takes from several buckets can so ask about all of them before it touches the first.
func (c *Cache) KnownDenied(req *ports.TakeRequest, result *ports.TakeResult, now time.Duration) bool {
	return c.answer(c.slot(req.Key), req, result, now)
}

// TakeMany implements ports.BucketStore. Requests that the cache cannot answer go to the store in one call, in their
// order.
func (c *Cache) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	now := c.clock()
	var rest *call // the requests for the store, once the cache has answered one
	for i := range reqs {
		s := c.slot(reqs[i].Key)
		if c.answer(s, &reqs[i], &results[i], now) {
			if rest == nil {
				rest = c.calls.Get().(*call)
				for j := range i {
					rest.add(j, reqs, results)
				}
			}
			continue
		}
		if reqs[i].Op.MayGiveBack() {
			s.generation.Add(1) // before the requests after this one are looked up
		}
		if rest != nil {
			rest.add(i, reqs, results)
		}
	}
	if rest == nil {
		c.ask(ctx, reqs, results, now)
		return
	}
	if len(rest.reqs) > 0 {
		c.ask(ctx, rest.reqs, rest.results, now)
		for j, i := range rest.index {
			results[i] = rest.results[j]
		}
	}
	rest.putBack(&c.calls)
}

// TakeUnknown is TakeMany for takes and peeks that KnownDenied did not answer at now. It does not look for denials again.
func (c *Cache) TakeUnknown(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult, now time.Duration) {
	c.ask(ctx, reqs, results, now)
}

// ask asks the store, and learns from its denials. A request that may give back makes those of its key void, also those of this call:
// see learn.
func (c *Cache) ask(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult, now time.Duration) {
	var few [4]uint64
	generations := few[:0]
	for i := range reqs {
		generations = append(generations, c.slot(reqs[i].Key).generation.Load())
	}
	c.store.TakeMany(ctx, reqs, results)
	for i := range reqs {
		c.learn(&reqs[i], &results[i], generations[i], now)
	}
}

// call is the requests of one call that the cache has not answered. Later calls reuse its memory.
type call struct {
	index   []int // of each request in the caller's slice
	reqs    []ports.TakeRequest
	results []ports.TakeResult
}

// add adds reqs[i], and the memory of its slot of results.
func (q *call) add(i int, reqs []ports.TakeRequest, results []ports.TakeResult) {
	q.index, q.reqs = append(q.index, i), append(q.reqs, reqs[i])
	q.results = append(q.results, ports.TakeResult{States: results[i].States[:0]})
}

// maxKept bounds the memory that an idle call holds.
const maxKept = 1024

func (q *call) putBack(pool *sync.Pool) {
	if cap(q.reqs) > maxKept {
		return
	}
	clear(q.reqs)
	clear(q.results)
	q.index, q.reqs, q.results = q.index[:0], q.reqs[:0], q.results[:0]
	pool.Put(q)
}

// learn updates the entry of a key from the store's reply.
func (c *Cache) learn(req *ports.TakeRequest, result *ports.TakeResult, generation uint64, sent time.Duration) {
	s := c.slot(req.Key)
	if req.Op.MayGiveBack() {
		s.generation.Add(1)
		return
	}
	if req.Op != domain.OpTake || result.Err != nil {
		return
	}
	if result.Verdict == domain.Allowed || canPay(req.Limits, result.States, req) {
		// A cheaper take passed, so a remembered bucket now has too many tokens and its waits are too short: replace it. A denial
		// for want of a permit alone is not remembered: the permit may be released at any time, by anyone.
		if s.expired(sent) {
			return
		}
		if old, ok := c.entries.GetIfPresent(req.Key); !ok || old.storeNow > result.Now {
			return
		}
	}
	if until := int64(sent + c.maxAge); until > s.deniedUntil.Load() {
		s.deniedUntil.Store(until)
	}
	c.entries.Set(req.Key, &denial{
		limits:     req.Limits,
		states:     slices.Clone(result.States),
		storeNow:   result.Now,
		sent:       sent,
		received:   c.clock(),
		generation: generation,
	})
}

// answer denies a take that the store would deny. It reports false, and leaves result alone, if that is not certain.
func (c *Cache) answer(s *slot, req *ports.TakeRequest, result *ports.TakeResult, now time.Duration) bool {
	if req.Op != domain.OpTake || req.Cost < 1 || req.Cost > domain.MaxCost || s.expired(now) {
		return false
	}
	d, ok := c.entries.GetIfPresent(req.Key)
	if !ok || now-d.sent > c.maxAge || d.generation != s.generation.Load() || !domain.EqualLimits(d.limits, req.Limits) {
		return false
	}
	if d.couldPay(req, now) {
		return false
	}
	c.hits.Add(1)
	seen := d.storeNow.Add(max(now-d.received, 0))
	result.Err = nil
	result.Verdict = domain.Denied
	result.Now = seen
	result.Store = decision.StoreShortcut
	result.States = result.States[:0]
	for i := range d.limits {
		state := d.limits[i].Current(d.states[i], seen)
		if d.limits[i].Kind() == domain.KindConcurrency && state.At < seen {
			state = d.limits[i].Full(seen) // some of the permits have expired; how many are left is not known
		}
		result.States = append(result.States, state)
	}
	return true
}

// couldPay reports whether the store's limits could pay for a take now, if nothing was taken since the denial.
func (d *denial) couldPay(req *ports.TakeRequest, now time.Duration) bool {
	elapsed := now - d.sent
	// Each clock is off by 500 ppm at most (the frequency tolerance of RFC 5905), and is cut to microseconds.
	elapsed += elapsed/1000 + 2*time.Microsecond
	latest := d.storeNow.Add(elapsed)
	for i := range d.limits {
		if !payable(&d.limits[i], d.limits[i].Current(d.states[i], latest), req) {
			return false
		}
	}
	return true
}

// canPay reports whether all limits can pay for a take; the states are current.
func canPay(limits []domain.Limit, states []domain.State, req *ports.TakeRequest) bool {
	for i := range limits {
		if !payable(&limits[i], states[i], req) {
			return false
		}
	}
	return true
}

// payable reports whether a limit can pay for a take. Permits count as there: any of them may have been released since.
func payable(l *domain.Limit, s domain.State, req *ports.TakeRequest) bool {
	return l.Kind() == domain.KindConcurrency || l.CanPayWithin(s, req.Cost, req.MaxWait)
}

func (c *Cache) slot(key clientkey.BucketKey) *slot {
	return &c.slots[xxhash.Sum64String(string(key))%uint64(len(c.slots))]
}

// expired reports whether no entry of the slot's keys can be young enough at now.
func (s *slot) expired(now time.Duration) bool { return int64(now) > s.deniedUntil.Load() }

// Config sizes a [Cache]. The names of its settings start with SHORTCUT, an earlier name of the cache.
type Config struct {
	// MaxEntries bounds the memory: an entry takes about 300 bytes. One with a long key or many limits counts as several.
	MaxEntries int `envconfig:"SHORTCUT_MAX_ENTRIES" default:"65536" desc:"denied clients remembered by the denial cache; 0 turns it off"`
	// MaxAge is how long a denial is remembered. During that time the cache does not learn of tokens that another node
	// gave back, of buckets that the store lost, or of a store clock that jumped ahead.
	MaxAge time.Duration `envconfig:"SHORTCUT_MAX_AGE" default:"1s" desc:"how long a denial is remembered"`
}

const maxEntries = 1 << 24

// Validate reports every violation at once, with the value found.
func (c Config) Validate() error {
	var v violation.List
	if c.MaxEntries < 0 || c.MaxEntries > maxEntries {
		v.Add("SHORTCUT_MAX_ENTRIES", strconv.Itoa(c.MaxEntries), "must be from 0 to "+strconv.Itoa(maxEntries))
	}
	if c.MaxAge <= 0 || c.MaxAge > time.Minute {
		v.Add("SHORTCUT_MAX_AGE", c.MaxAge.String(), "must be above 0 and at most 1m")
	}
	return v.Err()
}
