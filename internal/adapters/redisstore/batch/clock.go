package batch

import (
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
)

// clock estimates a server's time: the time of its last reply, and what has passed here since, by a clock that does not jump.
// Before the first reply the estimate is this machine's time. The estimate lags by the time that the last reply took to arrive.
// So the server is in the same period of a quota as the estimate or, if that period has just ended, in the next one.
type clock struct {
	began time.Time
	ahead atomic.Int64 // the server's time at began, in microseconds
}

func newClock() *clock {
	c := &clock{began: time.Now()}
	c.ahead.Store(int64(domain.InstantOf(c.began)))
	return c
}

func (c *clock) now() domain.Instant {
	return domain.Instant(c.ahead.Load() + time.Since(c.began).Microseconds())
}

// learn reads the time in a reply that has just come.
func (c *clock) learn(groups []*script.Group) {
	for _, g := range groups {
		if now := g.Result.Now; now > 0 {
			c.ahead.Store(int64(now) - time.Since(c.began).Microseconds())
			return
		}
	}
}
