package simulate

import (
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Clock is the time of the request that is replayed. Safe for concurrent use. The zero value stands at the epoch.
type Clock struct{ now atomic.Int64 }

// Now is what a store reads.
func (c *Clock) Now() domain.Instant { return domain.Instant(c.now.Load()) }

func (c *Clock) set(now domain.Instant) { c.now.Store(int64(now)) }
