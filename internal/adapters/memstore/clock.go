package memstore

import (
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// monotonicClock returns a clock that starts at the wall's time and from then on counts what the system's monotonic
// clock counts. So a wall clock that is set, by an operator or by NTP, moves no bucket: set forward it would fill
// them all, set back it would count the same time twice. The price: the store's time drifts away from the wall's
// by what is corrected, and does not pass while the machine sleeps; the first is only seen by people, the second
// errs against the client.
func monotonicClock() func() domain.Instant {
	start := time.Now()
	base := domain.InstantOf(start)
	return func() domain.Instant { return base.Add(time.Since(start)) }
}
