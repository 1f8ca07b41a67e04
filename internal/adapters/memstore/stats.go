package memstore

import (
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// Stats counts the buckets that the store holds and those that it has removed.
type Stats struct {
	// Buckets is the number of buckets held, including those that are full again and not removed yet.
	Buckets int
	// Permits is the number of permits held, including those that have expired and are not removed yet.
	Permits int
	// Expired is the number of buckets removed because they were full again. This loses nothing.
	Expired uint64
	// Evictions is the number of buckets removed before they were full, because Config.MaxBuckets was reached. If it rises,
	// raise the bound.
	Evictions uint64
	// LastEviction is the latest eviction; zero if there was none.
	LastEviction Eviction
}

// Eviction is a bucket that was removed before it was full.
type Eviction struct {
	Key   clientkey.BucketKey
	Limit string
	// At is when it was evicted.
	At domain.Instant
	// FullAt is when it would have been full. Its client gained the tokens of the time between.
	FullAt domain.Instant
}

// counts is a stripe's part of the Stats.
type counts struct {
	expired, evictions uint64
	last               Eviction
}

// Stats returns the sums over all stripes. It locks each stripe once, so it is not for every request.
func (s *Store) Stats() Stats {
	total := Stats{Buckets: int(s.total.Load()), Permits: int(s.permits.Load())}
	for i := range s.stripes {
		st := &s.stripes[i]
		st.mu.Lock()
		c := st.counts
		st.mu.Unlock()
		total.Expired += c.expired
		total.Evictions += c.evictions
		if c.last.At > total.LastEviction.At {
			total.LastEviction = c.last
		}
	}
	return total
}
