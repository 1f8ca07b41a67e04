package redisstore

import (
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// BreakerChange is the opening or the closing of a shard's circuit breaker.
type BreakerChange struct {
	// Shard is the shard's name; of a node in a Cluster "node host:port", so for logs alone.
	Shard string
	// Open is whether the shard is not asked from now on.
	Open bool
	// At is when the breaker opened. Outage is how long it was open, once it has closed.
	At     time.Time
	Outage time.Duration
	// Cause is why it opened, and Kind of what kind that is. Without a meaning when it closes.
	Cause error
	Kind  ports.FailureKind
}

// notices are the functions to call when an operator should know. The zero value calls none.
type notices struct {
	onFailover atomic.Pointer[func()]
	onBreaker  atomic.Pointer[func(BreakerChange)]
	onSkew     atomic.Pointer[func(shard string, ahead time.Duration)]
	tracer     atomic.Pointer[ports.Tracer]
}

func (n *notices) failedOver() {
	if f := n.onFailover.Load(); f != nil {
		(*f)()
	}
}

func (n *notices) breaker(c BreakerChange) {
	if f := n.onBreaker.Load(); f != nil {
		(*f)(c)
	}
}

func (n *notices) skewed(shard string, ahead time.Duration) {
	if f := n.onSkew.Load(); f != nil {
		(*f)(shard, ahead)
	}
}

// OnFailover has f called whenever another server is found in the place of a primary: it may know less than the old
// one did, so what was learned from that one is not to be relied upon. Behind Sentinel f has returned before the
// new primary decides anything; in a Cluster it is called soon after. It must not block.
func (m *RedisShardManager) OnFailover(f func()) { m.notices.onFailover.Store(&f) }

// OnBreaker has f called once whenever the circuit breaker of a shard opens, and once when it closes, in this order.
// It must not block.
func (m *RedisShardManager) OnBreaker(f func(BreakerChange)) { m.notices.onBreaker.Store(&f) }

// OnSkew has f called when a shard's clock is found to be more than a second away from this process's, and when it
// no longer is. No decision depends on the difference, but a clock that jumps fills or empties no bucket rightly.
// It must not block.
func (m *RedisShardManager) OnSkew(f func(shard string, ahead time.Duration)) {
	m.notices.onSkew.Store(&f)
}

// Trace has the tracer record each batch from now on, but no probes; nil: nobody does.
func (m *RedisShardManager) Trace(t ports.Tracer) {
	if t == nil {
		m.notices.tracer.Store(nil)
		return
	}
	m.notices.tracer.Store(&t)
}
