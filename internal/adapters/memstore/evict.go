package memstore

import (
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// sampleSize is how many buckets an eviction examines. If a tenth of all buckets are fuller than the rest, one eviction in
// 29 takes one of the rest. A take that finds no room for its permit looks for expired ones of as many clients.
const sampleSize = 32

// reserveLocked counts a new bucket, and makes sure that there is a free slot for it, and space for its name.
func (s *stripe) reserveLocked(nameSize int, now domain.Instant) {
	if s.total.Add(1) > s.max {
		s.evictLocked(now)
	}
	for s.names.used()+nameSize > s.maxNames && s.used > 0 {
		s.evictLocked(now)
	}
	if s.needsGrow() {
		s.sweepLocked(now)
		if s.used >= len(s.slots)*6/8 { // otherwise the next sweep would follow very soon
			s.resize(len(s.slots) + len(s.slots)/4 + 1)
		}
	}
}

// evictLocked examines the next sampleSize buckets and removes those that are full again. If there are none, it evicts one of
// them: see evictedBefore. The new bucket is not part of the sample: it is often the fullest of all, and a new
// client would never be counted while all other buckets are nearly empty.
func (s *stripe) evictLocked(now domain.Instant) {
	first, seen, removed := -1, 0, 0
	for steps := len(s.slots); steps > 0 && seen < sampleSize; steps-- {
		if s.clockHand >= len(s.slots) {
			s.clockHand = 0
		}
		switch {
		case s.slots[s.clockHand].tag == 0:
		case s.buckets[s.clockHand].fullAt <= now:
			s.removeLocked(s.clockHand)
			removed++
			continue // remove may have moved another bucket here
		default:
			seen++
			if first < 0 || s.buckets[s.clockHand].evictedBefore(s.buckets[first]) {
				first = s.clockHand
			}
		}
		s.clockHand++
	}
	s.counts.expired += uint64(removed)
	if removed == 0 && first >= 0 {
		key, limit := s.names.at(s.slots[first].name)
		s.counts.evictions++
		s.counts.last = Eviction{Key: key, Limit: limit, At: now, FullAt: s.buckets[first].fullAt}
		s.removeLocked(first)
	}
}

// evictedBefore reports whether h would be full again before other. All daily quotas end at midnight: of two that end
// together, it is the one of which less was used, since its client gains less.
func (h held) evictedBefore(other held) bool {
	if h.fullAt != other.fullAt {
		return h.fullAt < other.fullAt
	}
	return h.Amount < other.Amount
}

func (s *stripe) removeLocked(slot int) {
	s.remove(slot)
	s.total.Add(-1)
}

// sweepLocked removes the buckets that are full again.
func (s *stripe) sweepLocked(now domain.Instant) {
	for slot := 0; slot < len(s.slots); {
		if s.slots[slot].tag != 0 && s.buckets[slot].fullAt <= now {
			s.removeLocked(slot)
			s.counts.expired++
			continue // remove may have moved another bucket here
		}
		slot++
	}
}

// shrinkLocked frees memory when few buckets are left. The smaller table still has free slots.
func (s *stripe) shrinkLocked() {
	if s.used < len(s.slots)/4 && len(s.slots) > minSlots {
		s.resize(max(minSlots, s.used*3/2+1))
		s.names.compact(s.slots)
	}
}

const (
	sweepInterval = time.Second
	// sweepRounds is the number of intervals in which all stripes are swept once.
	sweepRounds = 16
)

// sweep removes buckets that are full again, and permits that have expired, until the store is closed. A store with few writes needs it to free memory;
// insertions do the same for their stripe. It locks one stripe at a time, for some ten microseconds per thousand buckets.
func (s *Store) sweep() {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	share := (len(s.stripes) + sweepRounds - 1) / sweepRounds
	next := 0
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		s.sweepStripes(next, share)
		next = (next + share) % len(s.stripes)
	}
}

// sweepStripes sweeps count stripes, starting with number from.
func (s *Store) sweepStripes(from, count int) {
	for i := range count {
		st := &s.stripes[(from+i)%len(s.stripes)]
		st.mu.Lock()
		now := s.now()
		st.sweepLocked(now)
		st.shrinkLocked()
		st.permits.sweep(now, len(st.permits.sets))
		st.mu.Unlock()
	}
}
