package memstore

import (
	"sync"
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// sampleSize is how many buckets are looked at to find one to evict. Where a tenth of them are fuller than the
// rest, one of the rest leaves once in 29 evictions.
const sampleSize = 32

// stripe is a part of the store with its own lock; a group lies in one stripe whole.
type stripe struct {
	mu sync.Mutex
	table
	// hand is the slot at which the next search for room begins. It goes round, so that every slot is looked at.
	hand int
	// total counts the buckets of all stripes.
	total  *atomic.Int64
	max    int64
	counts counts

	_ [8]byte // up to three cache lines, since other processors lock the neighbours
}

// decideLocked carries out one request that has been checked.
func (s *stripe) decideLocked(tag uint32, req *ports.TakeRequest, result *ports.TakeResult, now domain.Instant) {
	n := len(req.Limits)
	if cap(result.Buckets) < n {
		result.Buckets = make([]domain.Bucket, n)
	}
	result.Buckets = result.Buckets[:n]
	result.Err, result.Now, result.Store = nil, now, domain.StoreMemory

	var slots [domain.MaxLimits]int
	for i := range req.Limits {
		var h held
		h, slots[i] = s.find(tag, req.Key, req.Limits[i].Name())
		if h.fullAt <= now {
			h.Bucket = domain.Bucket{} // it means nothing any more; nor does one that was not found
		}
		result.Buckets[i] = h.Bucket
	}
	var write bool
	result.Verdict, write = domain.Apply(req.Op, req.Cost, req.Limits, result.Buckets, now)
	switch {
	case req.Op == domain.OpReset:
		s.forgetLocked(tag, req)
	case write:
		s.writeLocked(tag, req, result, slots[:n])
	}
}

// writeLocked stores the buckets that are not full. Those that are in the table go first, since an insertion moves
// entries.
func (s *stripe) writeLocked(tag uint32, req *ports.TakeRequest, result *ports.TakeResult, slots []int) {
	for i, slot := range slots {
		if slot >= 0 {
			s.buckets[slot] = heldBucket(req, result, i)
		}
	}
	for i, slot := range slots {
		if slot >= 0 {
			continue
		}
		if h := heldBucket(req, result, i); h.fullAt > result.Now {
			s.makeRoomLocked(result.Now)
			s.insert(tag, req.Key, req.Limits[i].Name(), h)
		}
	}
}

func heldBucket(req *ports.TakeRequest, result *ports.TakeResult, i int) held {
	return held{result.Buckets[i], req.Limits[i].FullAt(result.Buckets[i])}
}

func (s *stripe) forgetLocked(tag uint32, req *ports.TakeRequest) {
	for i := range req.Limits {
		if _, slot := s.find(tag, req.Key, req.Limits[i].Name()); slot >= 0 {
			s.dropLocked(slot)
		}
	}
}

func (s *stripe) dropLocked(slot int) {
	s.remove(slot)
	s.total.Add(-1)
}
