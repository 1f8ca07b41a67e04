package batch

import (
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// BreakerChange is the opening or the closing of a server's circuit breaker.
type BreakerChange struct {
	// Shard is the shard's name. For a node of a Cluster it is "node host:port", so it is for logs only.
	Shard string
	// Open reports whether the breaker opened: the server is not asked from now on.
	Open bool
	// At is when the breaker opened. Outage is how long it was open, once it has closed.
	At     time.Time
	Outage time.Duration
	// Cause is why the breaker opened, and Kind the kind of that failure. Both are empty when it closes.
	Cause error
	Kind  failure.Kind
}

// Events holds the functions to call when something happens to a server. The zero value calls none. Its methods may be
// called at any time.
type Events struct {
	onBreaker atomic.Pointer[func(BreakerChange)]
	onSkew    atomic.Pointer[func(shard string, ahead time.Duration)]
	onPanic   atomic.Pointer[func(shard string, p *failure.PanicError)]
	tracer    atomic.Pointer[ports.Tracer]
}

// OnBreaker sets the function that is called once whenever a circuit breaker opens, and once when it closes, in this
// order. It must not block.
func (e *Events) OnBreaker(f func(BreakerChange)) { e.onBreaker.Store(&f) }

// OnSkew sets the function that is called when a server's clock is found to be more than MaxSkew away from this process's
// clock, and when it no longer is. No decision depends on the difference, but a server's clock that jumps fills or empties
// buckets wrongly. It must not block.
func (e *Events) OnSkew(f func(shard string, ahead time.Duration)) { e.onSkew.Store(&f) }

// OnPanic sets the function that is called when this program, or its Redis client, panics while it asks a server. The
// requests of that batch fail. It is called on the goroutine that panicked, and must not block.
func (e *Events) OnPanic(f func(shard string, p *failure.PanicError)) { e.onPanic.Store(&f) }

// Panicked reports a panic that was recovered on the calling goroutine, and returns it as an error.
func (e *Events) Panicked(shard string, reason any) error {
	p := &failure.PanicError{Reason: reason, Stack: debug.Stack()}
	if f := e.onPanic.Load(); f != nil {
		(*f)(shard, p)
	}
	return p
}

// Trace has the tracer record each batch, but no probes, from now on. Nil ends that.
func (e *Events) Trace(t ports.Tracer) {
	if t == nil {
		e.tracer.Store(nil)
		return
	}
	e.tracer.Store(&t)
}

func (e *Events) breakerChanged(c BreakerChange) {
	if f := e.onBreaker.Load(); f != nil {
		(*f)(c)
	}
}

func (e *Events) skewed(shard string, ahead time.Duration) {
	if f := e.onSkew.Load(); f != nil {
		(*f)(shard, ahead)
	}
}
