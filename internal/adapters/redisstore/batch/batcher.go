// Package batch sends the requests of concurrent callers to one Redis server in batches. A circuit breaker keeps requests
// from a server that is down, and probes find out when the server is back.
package batch

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	// maxQueued bounds the groups that wait for one server: some 30 ms of work for a Redis that decides 150,000 a
	// second, so that the last of them can still be answered within the default budget.
	maxQueued = 4096
	// maxInFlight is the most batches of one server that are under way at once: while the server decides one, the
	// other is encoded or decoded here. More were measured to be smaller and not faster.
	maxInFlight = 2
	// fullEnough is how many groups must wait before another batch is sent beside the one under way. Sending earlier
	// makes batches small and costs both sides more; sending later leaves the server idle.
	fullEnough = 16
	// maxRequests is the most requests in one batch. Only equal ones can be more than script.MaxGroups: they cost the server
	// nothing, but all callers of a batch wait until each has its result.
	maxRequests = 1024
)

// Server is one Redis server, as a Batcher reaches it.
type Server struct {
	Name string // in errors and events
	// Client carries out the commands that are no decisions.
	Client script.Processor
	// Send decides the groups in their order and fills in every result, or returns why it could not. now is the server's
	// time as far as it is known.
	Send func(ctx context.Context, groups []*script.Group, now domain.Instant) error
	// ProbeKey returns a key of the server that no client has.
	ProbeKey func() (clientkey.BucketKey, error)
	// MayOverrun says that Send may return after the deadline of its context. Callers then do not wait for it.
	MayOverrun bool
	// Separate keeps equal requests apart; see [script.Batch]. It is for tests and benchmarks, which compare with it.
	Separate bool
}

// Batcher gathers the requests of concurrent callers: while one batch is under way the next one fills. There is no timer,
// so a request that finds no batch under way is sent at once.
//
// A caller has at most one item in the queue at a time, so the requests of one call are decided in their order.
type Batcher struct {
	server  Server
	budget  time.Duration
	events  *Events
	breaker *breaker
	counts  *counts
	clock   *clock
	// enough is how many must wait, equal ones counted each, to be about fullEnough groups when they are sent. How many a group will
	// stand for is not known while they wait: as many as in the last batch.
	enough atomic.Int64

	idle     sync.Pool // of *item
	mu       sync.Mutex
	queue    queue
	inFlight int // batches under way; 0 only if the queue is empty

	ctx     context.Context // of the probes: it ends with Stop
	cancel  context.CancelFunc
	probers sync.WaitGroup
	retired atomic.Bool
}

// New returns a batcher whose calls take at most the budget. Stop ends its probes.
func New(server Server, budget time.Duration, events *Events) *Batcher {
	b := &Batcher{server: server, budget: budget, events: events, counts: newCounts(), clock: newClock()}
	b.enough.Store(fullEnough)
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.breaker = newBreaker(server.Name, func(cause error, since time.Time) {
		b.probers.Go(func() { b.probeUntilBack(cause, since) })
	})
	return b
}

// Stop ends the probes. Requests are still sent.
func (b *Batcher) Stop() {
	b.breaker.stop()
	b.cancel()
}

// Retire is Stop for a server that another has replaced: an open breaker closes.
func (b *Batcher) Retire() {
	b.retired.Store(true)
	b.Stop()
}

// Wait waits until the probes have ended. After Stop that takes as long as the probe that is under way, unless its
// connections are closed. A probe that may overrun is not waited for.
func (b *Batcher) Wait() {
	if !b.server.MayOverrun {
		b.probers.Wait()
	}
}

// item is what one caller asks at once: at most script.MaxGroups groups, which are sent in one batch.
type item struct {
	groups []script.Group  // the batcher's from the moment that the item is queued until it is done
	since  time.Time       // when its caller asked first
	done   chan struct{}   // receives once, when every result is there, or err
	err    error           // of the whole item: the results then mean nothing
	caller context.Context // set only while batches are traced
	links
}

// resize sets the number of groups and keeps the memory of old results.
func (it *item) resize(n int) {
	if n > cap(it.groups) {
		it.groups = append(it.groups[:cap(it.groups)], make([]script.Group, n-cap(it.groups))...)
	}
	it.groups = it.groups[:n]
}

// Do decides reqs[at] into results[at] for each of the indexes, in their order. It returns when they are decided, when
// the budget of a batch is spent, or when ctx ends, and does not touch results afterwards.
func (b *Batcher) Do(ctx context.Context, reqs []ports.TakeRequest, indexes []int, results []ports.TakeResult) {
	for len(indexes) > 0 {
		n, began := min(len(indexes), script.MaxGroups), time.Now()
		if err := b.decide(ctx, began, reqs, indexes[:n], results); err != nil {
			for _, at := range indexes { // the remaining ones are not sent
				Fail(&results[at], err)
			}
			return
		}
		b.followMoves(ctx, began, reqs, indexes[:n], results)
		indexes = indexes[n:]
	}
}

// decide decides at most script.MaxGroups requests, in one batch, for a call that began at that time.
func (b *Batcher) decide(
	ctx context.Context, began time.Time, reqs []ports.TakeRequest, indexes []int, results []ports.TakeResult,
) error {
	it, _ := b.idle.Get().(*item)
	if it == nil {
		it = &item{done: make(chan struct{}, 1)}
	}
	it.resize(len(indexes))
	for i, at := range indexes {
		it.groups[i].Request = reqs[at]
	}
	it.since = began
	if err := b.submit(ctx, it); err != nil {
		return err // the item is not reused: the batcher may still write to it
	}
	for i, at := range indexes {
		from := &it.groups[i].Result
		kept := append(results[at].States[:0], from.States...)
		results[at] = *from
		results[at].States = kept
		// Of what an idle item points to, only the memory of the states is its own: equal requests link groups of several items.
		it.groups[i] = script.Group{Result: ports.TakeResult{States: from.States}}
	}
	it.caller = nil
	b.idle.Put(it)
	return nil
}

// Fail sets a result to an error and keeps its memory.
func Fail(result *ports.TakeResult, err error) {
	*result = ports.TakeResult{Err: err, Store: decision.StoreRedis, States: result.States[:0]}
}

// submit queues an item and waits for it.
func (b *Batcher) submit(ctx context.Context, it *item) error {
	if b.server.MayOverrun {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, it.since.Add(b.budget))
		defer cancel()
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %s, %w: %w", ports.ErrUnavailable, b.server.Name, ports.ErrNotRun, err)
	}
	if err := b.admit(len(it.groups)); err != nil {
		return err
	}
	it.err = nil
	if b.events.tracer.Load() != nil {
		it.caller = ctx
	}
	b.mu.Lock()
	if b.queue.groups+len(it.groups) > maxQueued {
		b.mu.Unlock()
		b.counts.overloaded.Add(uint64(len(it.groups)))
		return fmt.Errorf("%w: %s, %w: %d groups wait", ports.ErrOverloaded, b.server.Name, ports.ErrNotRun, maxQueued)
	}
	b.queue.push(it)
	idle := b.inFlight == 0
	start := idle || b.queue.groups >= int(b.enough.Load()) && b.inFlight < maxInFlight
	if start {
		b.inFlight++
	}
	b.mu.Unlock()

	uncancellable := ctx.Done() == nil
	switch {
	case idle && uncancellable:
		// This goroutine may wait for the server itself, which saves waking another.
		b.sendOne()
	case start:
		go b.sendAll()
	}
	if uncancellable {
		<-it.done
		return it.err
	}
	select {
	case <-it.done:
		return it.err
	case <-ctx.Done():
		return b.abandon(ctx, it)
	}
}

// admit returns the breaker's refusal, if it is not closed.
func (b *Batcher) admit(groups int) error {
	err := b.breaker.refusal()
	if err != nil {
		b.counts.refused.Add(uint64(groups))
	}
	return err
}

// abandon gives an item up because its caller has gone. An item that is still queued leaves the queue, so that callers who
// come and go do not fill it.
func (b *Batcher) abandon(ctx context.Context, it *item) error {
	b.mu.Lock()
	effect := failure.ErrMayHaveRun
	if b.queue.remove(it) {
		effect = ports.ErrNotRun
	}
	b.mu.Unlock()
	return fmt.Errorf("%w: %s, %w: %w", ports.ErrUnavailable, b.server.Name, effect, context.Cause(ctx))
}

// sendAll sends batches until nothing is queued.
func (b *Batcher) sendAll() {
	for b.sendNext() {
	}
}

// sendOne sends one batch and leaves what was queued meanwhile to another goroutine.
func (b *Batcher) sendOne() {
	if !b.sendNext() {
		return
	}
	b.mu.Lock()
	more := b.queue.first != nil
	if !more {
		b.inFlight--
	}
	b.mu.Unlock()
	if more {
		go b.sendAll()
	}
}

// sendNext sends one batch. If nothing is queued it ends the caller's share of inFlight and returns false.
func (b *Batcher) sendNext() bool {
	x := batches.Get().(*batch)
	defer x.release()
	x.requests.Separate = b.server.Separate
	more := b.fill(x)
	if len(x.items)+len(x.late) == 0 {
		return false
	}
	for more {
		more = b.fill(x)
	}
	requests, groups := x.requests.Len(), len(x.requests.Groups())
	b.enough.Store(int64(max(fullEnough, fullEnough*requests/max(1, groups))))
	for _, it := range x.late {
		it.done <- struct{}{}
	}
	if requests == 0 {
		return true
	}
	ctx, cancel := context.WithDeadline(context.Background(), x.oldest.Add(b.budget))
	err := b.sendTraced(ctx, x)
	cancel()
	for _, it := range x.items {
		it.err = err
		it.done <- struct{}{}
	}
	if requests >= 2*groups {
		runtime.Gosched() // these callers ask for the same again, mostly: first let them join the next batch, where they cost nothing
	}
	return true
}

// sendTraced is send, recorded if there is a tracer. A panic of the tracer or of another observer becomes an error.
func (b *Batcher) sendTraced(ctx context.Context, x *batch) (err error) {
	defer b.recoverTo(&err)
	tracer := b.events.tracer.Load()
	if tracer == nil {
		return b.send(ctx, x.requests.Groups())
	}
	callers := make([]context.Context, 0, len(x.items))
	for _, it := range x.items {
		if it.caller != nil {
			callers = append(callers, it.caller)
		}
	}
	end := (*tracer).Batch(b.server.Name, x.requests.Len(), callers)
	err = b.send(ctx, x.requests.Groups())
	end(err)
	return err
}

// send sends the groups, unless the breaker has opened since they were queued, and records the outcome.
func (b *Batcher) send(ctx context.Context, groups []*script.Group) error {
	if err := b.admit(requestsOf(groups)); err != nil {
		return err
	}
	began := time.Now()
	err := b.ask(ctx, groups)
	b.record(groups, began, err)
	return err
}

func requestsOf(groups []*script.Group) (requests int) {
	for _, g := range groups {
		requests += g.Requests()
	}
	return requests
}

// record counts a batch that was sent at began. err is the error of the whole batch; without one, the groups hold results.
func (b *Batcher) record(groups []*script.Group, began time.Time, err error) {
	end := time.Now()
	o := outcomeOf(groups, err)
	b.counts.batch(requestsOf(groups), end.Sub(began), o.kinds)
	if err == nil {
		if skew, changed := b.counts.compareClocks(&groups[0].Result, began, end); changed {
			b.events.skewed(b.server.Name, skew)
		}
	}
	b.breaker.record(o, end)
}

// Stats returns the statistics of the server under a name, without asking the server.
func (b *Batcher) Stats(name string) ports.ShardStats {
	s := ports.ShardStats{Name: name}
	b.mu.Lock()
	s.Queued, s.InFlight = b.queue.groups, b.inFlight
	b.mu.Unlock()
	b.breaker.read(&s)
	b.counts.read(&s)
	return s
}
