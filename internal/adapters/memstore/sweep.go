package memstore

import "time"

const (
	sweepInterval = time.Second
	// sweepRounds is how many intervals a round over all stripes takes.
	sweepRounds = 16
)

// sweep gives back the memory of buckets that are full again, for a store that nobody writes to: an insertion
// does it by itself. It holds one stripe's lock at a time, a few dozen microseconds for some thousand buckets.
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

// sweepStripes sweeps so many stripes, from one on.
func (s *Store) sweepStripes(from, count int) {
	for i := range count {
		st := &s.stripes[(from+i)%len(s.stripes)]
		st.mu.Lock()
		st.sweepLocked(s.now())
		st.shrinkLocked()
		st.mu.Unlock()
	}
}
