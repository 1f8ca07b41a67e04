package memstore

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Store keeps buckets in memory. It is made by [New] and safe for concurrent use.
type Store struct {
	stripes []stripe
	// seed is random, so that nobody can find keys that fall on one stripe or one slot.
	seed  maphash.Seed
	now   func() domain.Instant
	total atomic.Int64

	stop    chan struct{}
	stopped sync.WaitGroup
	once    sync.Once
}

var (
	_ ports.BucketStore   = (*Store)(nil)
	_ ports.HealthChecker = (*Store)(nil)
)

// New makes an empty store. Close ends its sweeping.
func New(cfg Config) (*Store, error) { return NewWithClock(cfg, monotonicClock()) }

// NewWithClock is [New] for a time of another kind than the wall's, such as that of a log which is replayed. now must be
// safe for concurrent use.
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
	}
	s.stopped.Go(s.sweep)
	return s, nil
}

const (
	maxStripes = 256
	// bucketsPerStripe is the least share of the bound that a stripe has. With fewer, a stripe could have nothing
	// to evict while the store is full.
	bucketsPerStripe = 1024
)

// stripesFor returns a power of two.
func stripesFor(buckets int) int {
	n := 1
	for n < maxStripes && buckets/(2*n) >= bucketsPerStripe {
		n *= 2
	}
	return n
}

// TakeMany implements [ports.BucketStore]. It waits for nothing but other calls' decisions, so ctx is looked at
// once. It allocates for new keys, and for slots of results whose Buckets have too little room.
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
	// The clock is read under the lock: a bucket must not see time go back because two calls overtook each other.
	st.decideLocked(tag, req, result, s.now())
	st.mu.Unlock()
}

// locate returns the stripe of a key and its tag there, made of different bits of the hash.
func (s *Store) locate(key domain.BucketKey) (*stripe, uint32) {
	hash := maphash.String(s.seed, string(key))
	return &s.stripes[hash>>32&uint64(len(s.stripes)-1)], tagOf(hash)
}

// CheckHealth implements [ports.HealthChecker]: there are no servers.
func (s *Store) CheckHealth(context.Context) []ports.ShardHealth { return nil }

// Close ends the sweeping. The store still decides afterwards, but forgets only to make room.
func (s *Store) Close() error {
	s.once.Do(func() { close(s.stop) })
	s.stopped.Wait()
	return nil
}
