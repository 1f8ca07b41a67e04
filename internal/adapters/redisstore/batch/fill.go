package batch

import (
	"fmt"
	"sync"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// batch is the memory of one batch. It is reused.
type batch struct {
	items    []*item
	oldest   time.Time    // since when the oldest item waits
	requests script.Batch // of the items
	late     []*item      // answered without being sent
}

var batches = sync.Pool{New: func() any { return new(batch) }}

func (x *batch) release() {
	clear(x.items)
	clear(x.late)
	x.requests.Clear()
	x.items, x.late = x.items[:0], x.late[:0]
	batches.Put(x)
}

// fill moves items from the queue into a batch, as many as surely fit. It reports whether more may fit: equal requests need the
// space of one. If the batch is empty and nothing is queued, fill ends the caller's share of inFlight.
func (b *Batcher) fill(x *batch) (more bool) {
	before := len(x.items)
	more = b.dequeue(x)
	for _, it := range x.items[before:] {
		for i := range it.groups {
			x.requests.Add(&it.groups[i])
		}
	}
	return more && x.requests.Space() > 0
}

// dequeue moves items from the queue to those of a batch, and reports whether it did and others are left. An item that has
// waited for half of its budget is answered at once: the other half must remain for the server, since the oldest item sets the
// deadline of a batch.
func (b *Batcher) dequeue(x *batch) (more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.queue.first == nil {
		if len(x.items)+len(x.late) == 0 {
			b.inFlight--
		}
		return false
	}
	now, taken, space := time.Now(), false, min(x.requests.Space(), maxRequests-x.requests.Len())
	for it := b.queue.first; it != nil && len(it.groups) <= space; it = b.queue.first {
		b.queue.remove(it)
		taken = true
		if waited := now.Sub(it.since); waited > b.budget/2 {
			it.err = b.lateError(waited, len(it.groups))
			x.late = append(x.late, it)
			continue
		}
		if len(x.items) == 0 || it.since.Before(x.oldest) {
			x.oldest = it.since
		}
		x.items = append(x.items, it)
		space -= len(it.groups)
	}
	return taken && b.queue.first != nil
}

// lateError is the error of an item that waited too long: overload, unless the server is failing.
func (b *Batcher) lateError(waited time.Duration, groups int) error {
	sentinel := ports.ErrUnavailable
	if b.breaker.up() {
		sentinel = ports.ErrOverloaded
		b.counts.overloaded.Add(uint64(groups))
	}
	return fmt.Errorf("%w: %s, %w: waited %v of %v to be sent", sentinel, b.server.Name, ports.ErrNotRun, waited, b.budget)
}
