package redisstore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// The circuit breaker of a shard opens after so many failed calls in a row, or when so large a share of the calls of
// a period failed.
const (
	tripInARow  = 5
	tripRate    = 0.5
	tripMinimum = 20
	tripPeriod  = time.Second
)

// guard stands before one shard: it asks no more of a shard that fails, finds out when it is back, and counts how it
// has fared. What this process itself has too much of is no failure of the shard, and a caller who leaves is none.
//
// The library's breaker holds the state and watches the rate; the failures in a row are counted here, since it knows
// one rule at a time. Every decision looks at refusal alone, which is nil while the breaker is closed.
type guard struct {
	name string
	questions
	budget  time.Duration // of a question
	notices *notices

	circuit circuitbreaker.CircuitBreaker[any]
	inARow  atomic.Int32
	cause   atomic.Pointer[error] // of the last failure that counted
	refusal atomic.Pointer[error]
	down    atomic.Bool // the last batch failed
	skewed  atomic.Bool // the clocks differ too much
	retired atomic.Bool
	counts  counts

	mu       sync.Mutex // guards what follows
	since    time.Time  // of the breaker's state
	stopped  bool
	ctx      context.Context // ends with stop
	stopping context.CancelFunc
	probing  sync.WaitGroup
}

// questions are what a guard asks its shard by itself.
type questions struct {
	// probe asks for a decision on a key of the shard, and returns why it is failing, if it is.
	probe func(ctx context.Context) error
	// permissions asks for what the user lacks.
	permissions func(ctx context.Context) error
}

func newGuard(name string, budget time.Duration, notices *notices, questions questions) *guard {
	g := &guard{name: name, questions: questions, budget: budget, notices: notices, since: time.Now()}
	g.ctx, g.stopping = context.WithCancel(context.Background())
	g.circuit = circuitbreaker.NewBuilder[any]().
		WithFailureRateThreshold(tripRate, tripMinimum, tripPeriod).
		OnOpen(func(e circuitbreaker.StateChangedEvent) {
			if e.OldState == circuitbreaker.ClosedState {
				g.opened()
			}
		}).
		Build()
	return g
}

// admit returns an error if the shard is not to be asked.
func (g *guard) admit(groups int) error {
	r := g.refusal.Load()
	if r == nil {
		return nil
	}
	g.counts.refused.Add(uint64(groups))
	return *r
}

// report learns from a batch that was sent at began: err is send's, and without one the groups hold their results.
func (g *guard) report(groups []*group, began time.Time, err error) {
	end := time.Now()
	found := judge(groups, err)
	g.counts.batch(len(groups), end.Sub(began), found.kinds)
	g.down.Store(found.health == healthFailing)
	if err == nil {
		g.compareClocks(groups, began, end)
	}
	if g.refusal.Load() != nil {
		return // it was sent before the breaker opened, and the probes decide now
	}
	switch found.health {
	case healthAlive:
		g.inARow.Store(0)
		g.circuit.RecordSuccess()
	case healthFailing:
		g.cause.Store(&found.cause)
		g.circuit.RecordFailure()
		if g.inARow.Add(1) >= tripInARow {
			g.circuit.Open()
		}
	case healthUnknown:
	}
}

// opened refuses what comes from now on, and starts to probe. The circuit opened in a call of report.
func (g *guard) opened() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return
	}
	cause, since := *g.cause.Load(), time.Now()
	g.since = since
	g.counts.openings.Add(1)
	// The cause stands there as text: what is refused has not failed in that way itself.
	refusal := fmt.Errorf("%w: %s, %s: it is not asked since it failed: %s",
		ports.ErrUnavailable, g.name, notRun, cause.Error())
	g.refusal.Store(&refusal)
	g.probing.Go(func() { g.probeUntilBack(cause, since) })
}

// closed has the shard asked again.
func (g *guard) closed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.since = time.Now()
	g.inARow.Store(0)
	g.down.Store(false)
	g.circuit.Close()
	g.refusal.Store(nil)
}

// stop ends the probes; wait returns when they have ended, which takes as long as a probe that is under way unless
// its connections are closed in between.
func (g *guard) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	g.stopping()
}

// retire is stop for a shard whose place another has taken, so that its outage is over.
func (g *guard) retire() {
	g.retired.Store(true)
	g.stop()
}

func (g *guard) wait() { g.probing.Wait() }

// ask sends a batch, if the breaker has not opened since its groups were admitted, and learns from what comes of it.
func (b *batcher) ask(ctx context.Context, groups []*group) error {
	if err := b.guard.admit(len(groups)); err != nil {
		return err
	}
	began := time.Now()
	err := b.send(ctx, groups)
	b.guard.report(groups, began, err)
	return err
}

// health is what a batch says of its shard.
type health uint8

const (
	healthUnknown health = iota // it was not asked
	healthAlive                 // it can decide
	healthFailing
)

// finding is what came of a batch.
type finding struct {
	health health
	kinds  kinds // of the failures
	cause  error // why it is failing
}

// judge looks at send's error, or else at the groups' own.
func judge(groups []*group, err error) finding {
	if err != nil {
		return judgeOne(err)
	}
	all := finding{}
	for _, g := range groups {
		one := finding{health: healthAlive}
		if g.result.Err != nil {
			one = judgeOne(g.result.Err)
		}
		all.kinds |= one.kinds
		// One group that was decided, or found to be unreadable, says that the shard lives.
		if one.health == healthAlive || all.health == healthUnknown {
			all.health, all.cause = one.health, one.cause
		}
	}
	return all
}

func judgeOne(err error) finding {
	f := classify(err)
	switch {
	case f.trips:
		return finding{healthFailing, bitOf(f.kind), err}
	case f.kind == ports.FailureWrongType, f.kind == ports.FailureCorrupt:
		return finding{healthAlive, bitOf(f.kind), nil}
	}
	return finding{healthUnknown, bitOf(f.kind), nil}
}
