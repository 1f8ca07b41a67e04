// Package memstore keeps buckets in the memory of this process. It is the default store, and it decides in place of another
// store that fails.
//
// It implements ports.BucketStore with the arithmetic of package domain, and bounds its memory: it keeps at most
// Config.MaxBuckets buckets. Of a million, each takes 101 bytes of live heap, with a key of 25 characters, and 159 bytes of
// resident memory where GOGC is 100. It removes a bucket that is full again, since an unknown client has a full bucket anyway. When the bound
// is reached, it evicts one bucket for each new one: of a sample, the one that would be full again first. The client of an
// evicted bucket gains the tokens that it would have refilled until then, and no more. [Stats] counts evictions and has the
// latest.
//
// A quota is kept as a bucket that is full again when its period ends. So quotas of a day or a month are evicted after buckets
// that fill in seconds, and of those that end together the least used first. The client of an evicted quota gains what it had
// used of it.
//
// Permits of concurrency limits are kept apart, and no eviction takes them. They are at most Config.MaxBuckets, too: beyond,
// a take that would pass fails with an error that wraps ports.ErrOverloaded, until permits are released or expire. A client's
// first permit takes 464 bytes of live heap, with a key of 25 characters. Permits that have expired leave at the next operation
// on their limit, and within 16 s in any case; a take that finds no room looks for some of them.
//
// Buckets, quotas and permits are lost when the process ends. Processes share nothing: two of them allow a client twice its limit.
package memstore

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/violation"
)

// Store keeps buckets in memory. [New] makes one. It is safe for concurrent use.
type Store struct {
	stripes []stripe
	// seed is random, so that an attacker cannot choose keys that all fall on one stripe or one slot.
	seed  maphash.Seed
	now   func() domain.Instant
	total atomic.Int64
	// permits is the number of permits.
	permits atomic.Int64

	stop    chan struct{}
	stopped sync.WaitGroup
	once    sync.Once
}

var (
	_ ports.BucketStore   = (*Store)(nil)
	_ ports.HealthChecker = (*Store)(nil)
)

// New returns an empty store. Close it after use.
func New(cfg Config) (*Store, error) { return NewWithClock(cfg, monotonicClock()) }

// NewWithClock is [New] with another clock, such as the times of a log that is replayed. now must be safe for concurrent use.
func NewWithClock(cfg Config, now func() domain.Instant) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Store{
		stripes: make([]stripe, stripesFor(cfg.MaxBuckets)),
		seed:    maphash.MakeSeed(),
		now:     now,
		stop:    make(chan struct{}),
	}
	for i := range s.stripes {
		st := &s.stripes[i]
		st.table, st.total, st.max = newTable(minSlots), &s.total, int64(cfg.MaxBuckets)
		st.maxNames = cmp.Or(cfg.MaxNameBytes, math.MaxInt) / len(s.stripes)
		st.permits = &permits{total: &s.permits, max: int64(cmp.Or(cfg.MaxPermits, cfg.MaxBuckets))}
	}
	s.stopped.Go(s.sweep)
	return s, nil
}

const (
	maxStripes = 256
	// bucketsPerStripe is the smallest share of the bound for a stripe. With a smaller one, a stripe could be empty while the
	// store is full, and have nothing to evict.
	bucketsPerStripe = 1024
)

// stripesFor returns the number of stripes, a power of two.
func stripesFor(buckets int) int {
	n := 1
	for n < maxStripes && buckets/(2*n) >= bucketsPerStripe {
		n *= 2
	}
	return n
}

// TakeMany implements [ports.BucketStore]. It checks ctx once, since it only waits for the locks of other calls. It allocates
// memory for new keys, and for results whose States are too small.
func (s *Store) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	if err := ctx.Err(); err != nil {
		err = fmt.Errorf("%w: %w", ports.ErrUnavailable, err)
		for i := range reqs {
			results[i].Err = err
		}
		return
	}
	for i := range reqs {
		if err := check(&reqs[i]); err != nil {
			results[i].Err = err
			continue
		}
		s.decide(&reqs[i], &results[i])
	}
}

func check(req *ports.TakeRequest) error {
	if len(req.Key) > maxKeyLen {
		return fmt.Errorf("%w: the key has %d bytes, more than %d", ports.ErrInvalidTake, len(req.Key), maxKeyLen)
	}
	return req.Check()
}

func (s *Store) decide(req *ports.TakeRequest, result *ports.TakeResult) {
	st, tag := s.locate(req.Key)
	st.mu.Lock()
	defer st.mu.Unlock() // also after a panic, upon which a caller may go on
	// Read the clock under the lock, so that time never goes back for a bucket.
	st.decideLocked(tag, req, result, s.now())
}

// locate returns the stripe of a key and its tag in it. They come from different bits of the hash.
func (s *Store) locate(key clientkey.BucketKey) (*stripe, uint32) {
	hash := maphash.String(s.seed, string(key))
	return &s.stripes[hash>>32&uint64(len(s.stripes)-1)], tagOf(hash)
}

// CheckHealth implements [ports.HealthChecker]. It returns nil, since there are no servers.
func (s *Store) CheckHealth(context.Context) []ports.ShardHealth { return nil }

// Close stops the removal of full buckets in the background. The store still decides afterwards, and removes buckets only
// when it needs their slots.
func (s *Store) Close() error {
	s.once.Do(func() { close(s.stop) })
	s.stopped.Wait()
	return nil
}

// monotonicClock returns a clock that starts at the wall clock's time and then follows the system's monotonic clock. If an
// operator or NTP sets the wall clock, no bucket changes: set forward, it would fill all buckets; set back, it would count
// the same time twice. The store's time therefore differs from the wall clock by such corrections, and stands still while
// the machine sleeps, so buckets refill too late and never too early.
func monotonicClock() func() domain.Instant {
	start := time.Now()
	base := domain.InstantOf(start)
	return func() domain.Instant { return base.Add(time.Since(start)) }
}

// Config of the store. The zero value is not valid: start from [DefaultConfig].
type Config struct {
	// MaxBuckets bounds the memory. A client has one bucket for each of its limits that is not full.
	MaxBuckets int `envconfig:"MEMORY_MAX_BUCKETS" default:"1000000" desc:"most buckets kept in memory, each takes 167 bytes of resident memory, with a key of 25 characters; beyond it the fullest are evicted; and most permits of concurrency limits, 464 bytes each: beyond it takes of them fail"`
	// MaxNameBytes bounds the memory of the keys of buckets, each with the name of its limit: beyond it buckets are evicted, too.
	// Zero means no bound but that of a key, which is 4 KiB.
	MaxNameBytes int `envconfig:"-"`
	// MaxPermits bounds the permits of concurrency limits. Zero means MaxBuckets.
	MaxPermits int `envconfig:"-"`
}

// DefaultConfig returns the defaults: a million buckets.
func DefaultConfig() Config { return Config{MaxBuckets: 1_000_000} }

const (
	minBuckets = policy.MaxLimits // so that the largest group fits
	maxBuckets = 100_000_000
)

// Validate reports every violation at once, with the value found.
func (c Config) Validate() error {
	if c.MaxBuckets < minBuckets || c.MaxBuckets > maxBuckets {
		return &violation.Error{
			Setting: "MEMORY_MAX_BUCKETS", Value: strconv.Itoa(c.MaxBuckets),
			Reason: fmt.Sprintf("must be from %d to %d", minBuckets, maxBuckets),
		}
	}
	return nil
}
