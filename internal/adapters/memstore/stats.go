package memstore

import "github.com/velocity-limiter/velocity/internal/domain"

// Stats is what the store holds and has let go.
type Stats struct {
	// Buckets is how many are held, with those that are full again and not swept yet.
	Buckets int
	// Expired is how many left because they were full again. It costs nobody anything.
	Expired uint64
	// Evictions is how many left before that, because Config.MaxBuckets was reached. If it rises, raise the bound.
	Evictions uint64
	// LastEviction is the latest of them; zero if there was none.
	LastEviction Eviction
}

// Eviction is one bucket that had to leave.
type Eviction struct {
	Key   domain.BucketKey
	Limit string
	// At is when it left.
	At domain.Instant
	// FullAt is when it would have been full again: its client gained the tokens of the time between.
	FullAt domain.Instant
}

// counts are a stripe's part of the Stats.
type counts struct {
	expired, evictions uint64
	last               Eviction
}

// Stats adds the stripes up, locking one after another: it is for a metric, not for every request.
func (s *Store) Stats() Stats {
	total := Stats{Buckets: int(s.total.Load())}
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
