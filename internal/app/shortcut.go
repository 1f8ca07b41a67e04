package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/maypok86/otter/v2"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// ShortcutConfig sizes a [Shortcut].
type ShortcutConfig struct {
	// MaxEntries bounds the memory: about 300 bytes each.
	MaxEntries int `envconfig:"SHORTCUT_MAX_ENTRIES" default:"65536" desc:"denied clients remembered by the shortcut; 0 turns it off"`
	// MaxAge is how long a denial is remembered. Within it the shortcut cannot know of tokens that another node
	// gave back, that the store forgot, or of time that the store's clock gained.
	MaxAge time.Duration `envconfig:"SHORTCUT_MAX_AGE" default:"1s" desc:"how long a denial is remembered"`
}

// Validate reports every violation at once, with the value found.
func (c ShortcutConfig) Validate() error {
	var errs []error
	if c.MaxEntries < 0 || c.MaxEntries > maxShortcutEntries {
		errs = append(errs, fmt.Errorf("VELOCITY_SHORTCUT_MAX_ENTRIES: %d: must be from 0 to %d", c.MaxEntries, maxShortcutEntries))
	}
	if c.MaxAge <= 0 || c.MaxAge > time.Minute {
		errs = append(errs, fmt.Errorf("VELOCITY_SHORTCUT_MAX_AGE: %v: must be above 0 and at most 1m", c.MaxAge))
	}
	return errors.Join(errs...)
}

const maxShortcutEntries = 1 << 24

// Shortcut is a store in front of another that answers "denied" by itself where the other one would.
//
// A bucket can only be poorer than it was last seen, plus what has been refilled since. So after a denial the
// shortcut keeps the state that it saw, and if even that optimistic copy, refilled to now, cannot pay, the verdict
// is the one that the store would give, and the store is not asked. A client that is over its limit and keeps
// asking costs the store nothing.
//
// An entry holds two instants of this process's clock. The verdict counts from before the call was sent, so the
// copy is never poorer than the store's bucket; the waits count from after the reply, so that waiting so long is
// enough, and they are late by a round trip at most.
//
// Safe for concurrent use.
type Shortcut struct {
	store  ports.BucketStore
	clock  func() time.Duration
	maxAge time.Duration
	cache  *otter.Cache[domain.BucketKey, *denial]
	// generations is bumped, by the key's hash, when tokens may have been given back: a denial of an older
	// generation is void, also one whose reply is still under way.
	generations [1 << 12]atomic.Uint64
	hits        atomic.Uint64
	questions   sync.Pool // of *question
}

var _ ports.BucketStore = (*Shortcut)(nil)

// denial is what the store's last denial of a key showed. Immutable.
type denial struct {
	limits     []domain.Limit
	buckets    []domain.Bucket
	storeNow   domain.Instant
	sent       time.Duration // by our clock, before the call
	received   time.Duration // by our clock, after the reply
	generation uint64
}

// NewShortcut puts a shortcut in front of a store. clock is monotonic; its zero is of no matter.
func NewShortcut(cfg ShortcutConfig, store ports.BucketStore, clock func() time.Duration) (*Shortcut, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cache, err := otter.New(&otter.Options[domain.BucketKey, *denial]{
		MaximumSize:      max(cfg.MaxEntries, 1),
		ExpiryCalculator: otter.ExpiryWriting[domain.BucketKey, *denial](cfg.MaxAge),
	})
	if err != nil {
		return nil, fmt.Errorf("shortcut: %w", err)
	}
	return &Shortcut{
		store: store, clock: clock, maxAge: cfg.MaxAge, cache: cache,
		questions: sync.Pool{New: func() any { return new(question) }},
	}, nil
}

// Close ends the cache's goroutines. The store behind is not closed.
func (s *Shortcut) Close() { s.cache.StopAllGoroutines() }

// Hits counts the denials that the store was not asked for.
func (s *Shortcut) Hits() uint64 { return s.hits.Load() }

// Len is about how many denials are remembered.
func (s *Shortcut) Len() int { return s.cache.EstimatedSize() }

// Forget makes every denial void: after a failover, say, whose new primary may know less than the old one.
func (s *Shortcut) Forget() {
	for i := range s.generations {
		s.generations[i].Add(1)
	}
	s.cache.InvalidateAll()
}

// TakeMany implements ports.BucketStore.
func (s *Shortcut) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	now := s.clock()
	for i := range reqs {
		if s.answer(&reqs[i], &results[i], now) {
			s.hits.Add(1)
			continue
		}
		// One request cannot be answered here, so all that follow go to the store with it as they are, except
		// those that can: equal keys stay in order, since only the store gives tokens back.
		s.askStore(ctx, reqs, results, i, now)
		return
	}
}

// askStore answers reqs[first:], of which the first must go to the store.
func (s *Shortcut) askStore(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult, first int, sent time.Duration) {
	if first == 0 && len(reqs) == 1 {
		generation := s.before(&reqs[0])
		s.store.TakeMany(ctx, reqs, results)
		s.after(&reqs[0], &results[0], generation, sent)
		return
	}
	q := s.questions.Get().(*question)
	defer q.putBack(&s.questions)
	for i := first; i < len(reqs); i++ {
		if i > first && s.answer(&reqs[i], &results[i], sent) {
			s.hits.Add(1)
			continue
		}
		q.index, q.reqs = append(q.index, i), append(q.reqs, reqs[i])
		q.replies = append(q.replies, ports.TakeResult{Buckets: results[i].Buckets[:0]}) // in the slot's memory
		s.before(&reqs[i])
	}
	// Read when all are noted: what gives tokens back may stand behind a denial of the same key.
	for j := range q.reqs {
		q.generations = append(q.generations, s.generation(q.reqs[j].Key).Load())
	}
	s.store.TakeMany(ctx, q.reqs, q.replies)
	for j, i := range q.index {
		s.after(&q.reqs[j], &q.replies[j], q.generations[j], sent)
		results[i] = q.replies[j]
	}
}

// question is the memory of one call for several takes, used again by later ones.
type question struct {
	index       []int // of each in the call
	reqs        []ports.TakeRequest
	replies     []ports.TakeResult
	generations []uint64
}

func (q *question) putBack(pool *sync.Pool) {
	if cap(q.reqs) > maxKept {
		return
	}
	clear(q.reqs)
	clear(q.replies)
	q.index, q.reqs, q.replies, q.generations = q.index[:0], q.reqs[:0], q.replies[:0], q.generations[:0]
	pool.Put(q)
}

// before notes that an operation is about to be sent, and returns the generation that its reply will belong to.
func (s *Shortcut) before(req *ports.TakeRequest) uint64 {
	g := s.generation(req.Key)
	if givesBack(req.Op) {
		return g.Add(1)
	}
	return g.Load()
}

func givesBack(op domain.Op) bool { return op != domain.OpTake && op != domain.OpPeek }

// after learns from the store's reply.
func (s *Shortcut) after(req *ports.TakeRequest, result *ports.TakeResult, generation uint64, sent time.Duration) {
	if givesBack(req.Op) {
		s.generation(req.Key).Add(1)
		return
	}
	if req.Op != domain.OpTake || result.Err != nil {
		return
	}
	if result.Verdict == domain.Allowed {
		// A cheaper request passed: what is remembered is too rich now, and its waits too short.
		if old, ok := s.cache.GetIfPresent(req.Key); !ok || old.storeNow > result.Now {
			return
		}
	}
	s.cache.Set(req.Key, &denial{
		limits:     req.Limits,
		buckets:    slices.Clone(result.Buckets),
		storeNow:   result.Now,
		sent:       sent,
		received:   s.clock(),
		generation: generation,
	})
}

// answer denies the request if the store would.
func (s *Shortcut) answer(req *ports.TakeRequest, result *ports.TakeResult, now time.Duration) bool {
	if req.Op != domain.OpTake || req.Cost < 1 || req.Cost > domain.MaxCost {
		return false
	}
	d, ok := s.cache.GetIfPresent(req.Key)
	if !ok || now-d.sent > s.maxAge || d.generation != s.generation(req.Key).Load() || !sameLimits(d.limits, req.Limits) {
		return false
	}
	if d.couldPay(req.Cost, now) {
		return false
	}
	seen := d.storeNow.Add(max(now-d.received, 0))
	result.Err = nil
	result.Verdict = domain.Denied
	result.Now = seen
	result.Store = domain.StoreShortcut
	result.Buckets = result.Buckets[:0]
	for i := range d.limits {
		result.Buckets = append(result.Buckets, d.limits[i].Seen(d.buckets[i], seen))
	}
	return true
}

// couldPay reports whether the richest state that the store's bucket can be in by now could pay.
func (d *denial) couldPay(cost domain.Tokens, now time.Duration) bool {
	elapsed := now - d.sent
	// The two clocks are slewed by 500 ppm each at most (RFC 5905's frequency tolerance), and cut to microseconds.
	elapsed += elapsed/1000 + 2*time.Microsecond
	latest := d.storeNow.Add(elapsed)
	for i := range d.limits {
		if !d.limits[i].Affords(d.limits[i].Seen(d.buckets[i], latest), cost) {
			return false
		}
	}
	return true
}

func (s *Shortcut) generation(key domain.BucketKey) *atomic.Uint64 {
	return &s.generations[xxhash.Sum64String(string(key))%uint64(len(s.generations))]
}

func sameLimits(a, b []domain.Limit) bool {
	return len(a) == len(b) && (&a[0] == &b[0] || slices.Equal(a, b))
}
