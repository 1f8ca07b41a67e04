package memstore

import "github.com/velocity-limiter/velocity/internal/domain"

// makeRoomLocked counts one bucket more and sees to it that there is a slot for it.
func (s *stripe) makeRoomLocked(now domain.Instant) {
	if s.total.Add(1) > s.max {
		s.giveWayLocked(now)
	}
	if s.crowded() {
		s.sweepLocked(now)
		if s.used >= len(s.slots)*6/8 { // else the next sweep would follow too soon to be worth it
			s.rebuild(len(s.slots) + len(s.slots)/2)
		}
	}
}

// giveWayLocked looks at the next few buckets: those that are full again leave, or else the one that is soonest
// full again. The bucket that needs the room is not one of them. It is often the fullest of all, but if it were
// the one to go, then a client that comes while all others are poor would never be counted.
func (s *stripe) giveWayLocked(now domain.Instant) {
	soonest, seen, dropped := -1, 0, 0
	for steps := len(s.slots); steps > 0 && seen < sampleSize; steps-- {
		if s.hand >= len(s.slots) {
			s.hand = 0
		}
		switch {
		case s.slots[s.hand].tag == 0:
		case s.buckets[s.hand].fullAt <= now:
			s.dropLocked(s.hand)
			dropped++
			continue // another may have moved here
		default:
			seen++
			if soonest < 0 || s.buckets[s.hand].fullAt < s.buckets[soonest].fullAt {
				soonest = s.hand
			}
		}
		s.hand++
	}
	s.counts.expired += uint64(dropped)
	if dropped == 0 && soonest >= 0 {
		key, limit := s.names.at(s.slots[soonest].name)
		s.counts.evictions++
		s.counts.last = Eviction{Key: key, Limit: limit, At: now, FullAt: s.buckets[soonest].fullAt}
		s.dropLocked(soonest)
	}
}

// sweepLocked forgets the buckets that are full again.
func (s *stripe) sweepLocked(now domain.Instant) {
	for slot := 0; slot < len(s.slots); {
		if s.slots[slot].tag != 0 && s.buckets[slot].fullAt <= now {
			s.dropLocked(slot)
			s.counts.expired++
			continue // another may have moved here
		}
		slot++
	}
}

// shrinkLocked gives memory back when few buckets are left, with room to grow by half.
func (s *stripe) shrinkLocked() {
	if s.used < len(s.slots)/4 && len(s.slots) > minSlots {
		s.rebuild(max(minSlots, s.used*2))
	}
}
