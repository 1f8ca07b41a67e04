package batch

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// A breaker opens after tripInARow failed batches in a row, or when at least tripRate of the batches of the last
// tripPeriod failed and there were at least tripMinimum of them.
const (
	tripInARow  = 5
	tripRate    = 0.5
	tripMinimum = 20
	tripPeriod  = time.Second
)

// breaker is the circuit breaker of one server: closed, open or half-open. While it is not closed, no batch is sent.
//
// It is written here because libraries know one rule for opening, not two, let requests probe the server, where this
// program sends probes of its own, and lock for each look at the state. Every request looks at it: that is one atomic load.
type breaker struct {
	server string
	state  atomic.Pointer[breakerState]

	mu       sync.Mutex // for all that follows, and for storing state
	inARow   int        // failed batches since the last success
	recent   window
	cause    error // of the last failed batch
	openings atomic.Uint64
	stopped  bool
	onOpen   func(cause error, since time.Time) // called with mu held, so never after stop
}

// breakerState is immutable.
type breakerState struct {
	name    ports.BreakerState
	since   time.Time // of being closed, or not closed
	refusal error     // what a request gets instead of a decision; nil while closed
}

func newBreaker(server string, onOpen func(cause error, since time.Time)) *breaker {
	b := &breaker{server: server, onOpen: onOpen}
	b.state.Store(&breakerState{name: ports.BreakerClosed, since: time.Now()})
	return b
}

// refusal returns nil while the server may be asked, and otherwise the error to answer with.
func (b *breaker) refusal() error { return b.state.Load().refusal }

// record counts the outcome of a batch, which may open the breaker. Outcomes of batches that were sent before the breaker
// opened do not count: then the probes decide.
func (b *breaker) record(o outcome, now time.Time) {
	if o.health == healthUnknown {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refusal() != nil {
		return
	}
	failed := o.health == healthFailing
	if failed {
		b.inARow++
		b.cause = o.cause
	} else {
		b.inARow = 0
	}
	batches, failures := b.recent.add(now, failed)
	if b.inARow >= tripInARow || batches >= tripMinimum && float64(failures) >= tripRate*float64(batches) {
		b.openLocked(now)
	}
}

func (b *breaker) openLocked(now time.Time) {
	if b.stopped {
		return
	}
	b.openings.Add(1)
	// The refusal holds the cause as text only: a refused request has not failed in that way itself.
	b.state.Store(&breakerState{ports.BreakerOpen, now, fmt.Errorf("%w: %s, %w: it is not asked since it failed: %s",
		ports.ErrUnavailable, b.server, ports.ErrNotRun, b.cause.Error())})
	b.onOpen(b.cause, now)
}

// probing switches an open breaker to half-open while a probe is under way, and back.
func (b *breaker) probing(underWay bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := *b.state.Load()
	if s.name = ports.BreakerOpen; underWay {
		s.name = ports.BreakerHalfOpen
	}
	b.state.Store(&s)
}

// close has the server asked again.
func (b *breaker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inARow, b.recent = 0, window{}
	b.state.Store(&breakerState{name: ports.BreakerClosed, since: time.Now()})
}

// stop keeps the breaker from opening from now on.
func (b *breaker) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
}

// up reports whether the breaker is closed and the last batch did not fail.
func (b *breaker) up() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refusal() == nil && b.inARow == 0
}

// read fills in the statistics of the breaker.
func (b *breaker) read(s *ports.ShardStats) {
	state := b.state.Load()
	s.Breaker, s.Since, s.Up, s.Openings = state.name, state.since, b.up(), b.openings.Load()
}

// window counts the batches of the last tripPeriod, in slices of a tenth of it.
type window [10]windowSlice

type windowSlice struct {
	number            int64 // of slices since the epoch
	batches, failures int
}

// add counts a batch and returns the totals.
func (w *window) add(now time.Time, failed bool) (batches, failures int) {
	const slices = int64(len(w))
	number := now.UnixNano() / (int64(tripPeriod) / slices)
	current := &w[number%slices]
	if current.number != number {
		*current = windowSlice{number: number}
	}
	current.batches++
	if failed {
		current.failures++
	}
	for _, s := range w {
		if s.number > number-slices && s.number <= number {
			batches += s.batches
			failures += s.failures
		}
	}
	return batches, failures
}
