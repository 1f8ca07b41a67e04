package memstore

import (
	"sync"
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// stripe is a part of the store with its own lock. All buckets of a group are in one stripe.
type stripe struct {
	mu sync.Mutex
	table
	// clockHand is the slot where the next eviction starts. It goes round all slots.
	clockHand int
	// total is the number of buckets in all stripes.
	total *atomic.Int64
	max   int64
	// maxNames bounds the bytes of the names in this stripe.
	maxNames int
	counts   counts
	// permits are kept apart from the table, whose memory holds no pointers. With it a stripe fills three cache lines, since
	// other processors lock the neighbouring stripes.
	permits *permits
}

// decideLocked carries out one valid request.
func (s *stripe) decideLocked(tag uint32, req *ports.TakeRequest, result *ports.TakeResult, now domain.Instant) {
	n := len(req.Limits)
	if cap(result.States) < n {
		result.States = make([]domain.State, n)
	}
	result.States = result.States[:n]
	result.Err, result.Now, result.Store, result.Permits = nil, now, decision.StoreMemory, result.Permits[:0]

	var slots [policy.MaxLimits]int
	aboutPermits := req.Op == domain.OpList
	for i := range req.Limits {
		if req.Limits[i].Kind() == domain.KindConcurrency {
			aboutPermits, slots[i], result.States[i] = true, -1, domain.State{}
			continue
		}
		var h held
		h, slots[i] = s.find(tag, req.Key, &req.Limits[i])
		if h.fullAt <= now {
			h.State = domain.State{} // full again, or not found
		}
		result.States[i] = h.State
	}
	var write bool
	if aboutPermits {
		write = s.permits.apply(req, result)
	} else {
		result.Verdict, write = domain.Apply(req.Operation(), req.Limits, result.States, nil, now)
	}
	switch {
	case result.Err != nil:
	case req.Op == domain.OpReset:
		for i := range req.Limits { // a removal moves entries, so the slots found before do not count
			if _, slot := s.find(tag, req.Key, &req.Limits[i]); slot >= 0 {
				s.removeLocked(slot)
			}
		}
	case write:
		s.writeLocked(tag, req, result, slots[:n])
	}
}

// writeLocked stores the buckets that are not full. It first updates those in the table, since an insertion moves entries.
func (s *stripe) writeLocked(tag uint32, req *ports.TakeRequest, result *ports.TakeResult, slots []int) {
	for i, slot := range slots {
		if slot >= 0 {
			s.buckets[slot] = heldBucket(req, result, i)
		}
	}
	for i, slot := range slots {
		if slot >= 0 || req.Limits[i].Kind() == domain.KindConcurrency {
			continue
		}
		if h := heldBucket(req, result, i); h.fullAt > result.Now {
			s.reserveLocked(nameSize(req.Key, &req.Limits[i]), result.Now)
			s.insert(tag, req.Key, &req.Limits[i], h)
		}
	}
}

func heldBucket(req *ports.TakeRequest, result *ports.TakeResult, i int) held {
	return held{result.States[i], req.Limits[i].FullAt(result.States[i])}
}
