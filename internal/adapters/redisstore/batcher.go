package redisstore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	// maxQueued bounds the groups that wait for one shard: some 30 ms of work for a Redis that decides 150,000 a
	// second, so that what is queued can still be answered within the default budget.
	maxQueued = 4096
	// maxInFlight is the most batches of one shard that are under way at once: while the server decides one, the
	// other is made or read here. More were measured to be smaller and not faster.
	maxInFlight = 2
	// fullEnough is how many groups must wait before another batch is sent beside the one under way. Sending earlier
	// makes batches small and costs both sides more; sending later leaves the server idle.
	fullEnough = 16
)

// batcher lets concurrent calls for one shard ride together: while one batch is under way the next one fills. There
// is no timer, so a call that finds nothing under way waits for nobody.
//
// Order: a call has at most one chunk in the batcher at a time, so what one caller asks is decided in its order.
type batcher struct {
	name   string
	budget time.Duration
	// send carries groups out, in their order, and fills every group's result, or returns why it could not.
	send  func(ctx context.Context, groups []*group) error
	guard *guard

	idle     sync.Pool // of *chunk
	mu       sync.Mutex
	queue    []*chunk
	queued   int  // groups in queue
	inFlight int  // batches under way; 0 only if the queue is empty
	failing  bool // the last batch came back with an error
}

func newBatcher(name string, budget time.Duration, send func(context.Context, []*group) error, guard *guard) *batcher {
	return &batcher{name: name, budget: budget, send: send, guard: guard}
}

// group is one request and its answer. It belongs to the batcher from the moment that its chunk is queued until the
// chunk is done.
type group struct {
	req    ports.TakeRequest
	result ports.TakeResult
}

// chunk is what one caller asks of one shard at once: at most maxGroups, sent in one batch.
type chunk struct {
	groups []group
	since  time.Time
	done   chan struct{}   // receives once, when every result is there, or err
	err    error           // of the whole chunk: the results then mean nothing
	state  chunkState      // guarded by the batcher's mu
	from   context.Context // the caller's, where batches are traced
}

type chunkState uint8

const (
	chunkQueued chunkState = iota
	chunkSent
	chunkAbandoned
)

// size makes room for n groups and keeps what the old ones' results point to.
func (c *chunk) size(n int) {
	if n > cap(c.groups) {
		c.groups = append(c.groups[:cap(c.groups)], make([]group, n-cap(c.groups))...)
	}
	c.groups = c.groups[:n]
}

// do decides reqs[slot] into results[slot] for each of the slots, in their order. It returns when they are decided,
// when the budget is spent, or when ctx ends, and then touches results no more.
func (b *batcher) do(ctx context.Context, reqs []ports.TakeRequest, slots []int, results []ports.TakeResult) {
	for len(slots) > 0 {
		n := min(len(slots), maxGroups)
		c, _ := b.idle.Get().(*chunk)
		if c == nil {
			c = &chunk{done: make(chan struct{}, 1)}
		}
		c.size(n)
		for i, slot := range slots[:n] {
			c.groups[i].req = reqs[slot]
		}
		if err := b.ride(ctx, c); err != nil {
			// The chunk is not used again: the batcher may still be filling it. And no more is sent after it.
			for _, slot := range slots {
				fail(&results[slot], err)
			}
			return
		}
		for i, slot := range slots[:n] {
			from := &c.groups[i].result
			kept := append(results[slot].Buckets[:0], from.Buckets...)
			results[slot] = *from
			results[slot].Buckets = kept
			c.groups[i].req = ports.TakeRequest{}
		}
		c.from = nil
		b.idle.Put(c)
		slots = slots[n:]
	}
}

// ride queues a chunk and waits for it.
func (b *batcher) ride(ctx context.Context, c *chunk) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %s, %s: %w", ports.ErrUnavailable, b.name, notRun, err)
	}
	if err := b.guard.admit(len(c.groups)); err != nil {
		return err
	}
	c.since, c.state, c.err = time.Now(), chunkQueued, nil
	if b.guard.notices.tracer.Load() != nil {
		c.from = ctx
	}
	b.mu.Lock()
	if b.queued+len(c.groups) > maxQueued {
		b.mu.Unlock()
		b.guard.counts.overloaded.Add(uint64(len(c.groups)))
		return fmt.Errorf("%w: %s has %d groups waiting", ports.ErrOverloaded, b.name, maxQueued)
	}
	b.queue = append(b.queue, c)
	b.queued += len(c.groups)
	alone := b.inFlight == 0
	start := alone || b.queued >= fullEnough && b.inFlight < maxInFlight
	if start {
		b.inFlight++
	}
	b.mu.Unlock()

	stays := ctx.Done() == nil // nobody can call this caller away
	switch {
	case alone && stays:
		// So its own goroutine may wait for the server, and no other need be woken.
		b.sendOne()
	case start:
		go b.sendAll()
	}
	if stays {
		<-c.done
		return c.err
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return b.abandon(ctx, c)
	}
}

// abandon gives a chunk up. One that is still queued will not be sent.
func (b *batcher) abandon(ctx context.Context, c *chunk) error {
	b.mu.Lock()
	done := mayHaveRun
	if c.state == chunkQueued {
		c.state, done = chunkAbandoned, notRun
	}
	b.mu.Unlock()
	return fmt.Errorf("%w: %s, %s: %w", ports.ErrUnavailable, b.name, done, context.Cause(ctx))
}

// sendAll sends batches until nothing is queued.
func (b *batcher) sendAll() {
	for b.sendNext() {
	}
}

// sendOne sends one batch and leaves what has queued up since to another goroutine.
func (b *batcher) sendOne() {
	if !b.sendNext() {
		return
	}
	b.mu.Lock()
	more := len(b.queue) > 0
	if !more {
		b.inFlight--
	}
	b.mu.Unlock()
	if more {
		go b.sendAll()
	}
}

// sendNext sends one batch. If nothing is queued it gives up its place among those under way and returns false.
func (b *batcher) sendNext() bool {
	batch := batches.Get().(*batch)
	defer batch.putBack()
	if !b.fill(batch) {
		return false
	}
	for _, c := range batch.late {
		c.done <- struct{}{}
	}
	if len(batch.groups) == 0 {
		return true
	}
	ctx, cancel := context.WithDeadline(context.Background(), batch.chunks[0].since.Add(b.budget))
	err := b.askTraced(ctx, batch)
	cancel()
	b.mu.Lock()
	b.failing = err != nil
	b.mu.Unlock()
	for _, c := range batch.chunks {
		c.err = err
		c.done <- struct{}{}
	}
	return true
}

// askTraced is ask, recorded where there is a tracer.
func (b *batcher) askTraced(ctx context.Context, x *batch) error {
	tracer := b.guard.notices.tracer.Load()
	if tracer == nil {
		return b.ask(ctx, x.groups)
	}
	from := make([]context.Context, 0, len(x.chunks))
	for _, c := range x.chunks {
		if c.from != nil {
			from = append(from, c.from)
		}
	}
	end := (*tracer).Batch(b.name, len(x.groups), from)
	err := b.ask(ctx, x.groups)
	end(err)
	return err
}

// batch is the memory of one call, used again by later ones.
type batch struct {
	chunks []*chunk
	groups []*group
	late   []*chunk // answered without being sent
}

var batches = sync.Pool{New: func() any { return new(batch) }}

func (x *batch) putBack() {
	clear(x.chunks)
	clear(x.groups)
	clear(x.late)
	x.chunks, x.groups, x.late = x.chunks[:0], x.groups[:0], x.late[:0]
	batches.Put(x)
}

// fill moves chunks from the queue into a batch. A chunk that has waited for half of its budget is answered at once:
// the other half must remain for the server, or a batch would fail for the sake of its oldest member. When the
// server is not to blame for the wait, that is overload.
func (b *batcher) fill(x *batch) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		b.inFlight--
		return false
	}
	now, taken := time.Now(), 0
	for _, c := range b.queue {
		if len(x.groups)+len(c.groups) > maxGroups {
			break
		}
		taken++
		b.queued -= len(c.groups)
		switch waited := now.Sub(c.since); {
		case c.state == chunkAbandoned:
		case waited > b.budget/2:
			c.state = chunkSent
			c.err = b.lateError(waited, len(c.groups))
			x.late = append(x.late, c)
		default:
			c.state = chunkSent
			x.chunks = append(x.chunks, c)
			for i := range c.groups {
				x.groups = append(x.groups, &c.groups[i])
			}
		}
	}
	rest := copy(b.queue, b.queue[taken:])
	clear(b.queue[rest:])
	b.queue = b.queue[:rest]
	return true
}

func (b *batcher) lateError(waited time.Duration, groups int) error {
	sentinel := ports.ErrOverloaded
	if b.failing {
		sentinel = ports.ErrUnavailable
	} else {
		b.guard.counts.overloaded.Add(uint64(groups))
	}
	return fmt.Errorf("%w: %s, %s: waited %v of %v to be sent", sentinel, b.name, notRun, waited, b.budget)
}
