package batch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// endless is a context that cannot be cancelled; a test's own context can.
var endless = context.Background()

// fakeShard answers each group with its own cost as the time, so that a mixed-up answer is noticed. Each batch takes some time.
type fakeShard struct {
	takes   time.Duration
	fail    atomic.Pointer[error]
	panics  atomic.Bool
	onProbe func(ctx context.Context, groups []*script.Group) error // instead of send, if set

	mu      sync.Mutex
	batches [][]domain.Tokens // the costs of each batch, in the order of their sending
	most    int               // most batches under way at once
	now     int
}

func (f *fakeShard) send(ctx context.Context, groups []*script.Group) error {
	f.mu.Lock()
	costs := make([]domain.Tokens, len(groups))
	for i, g := range groups {
		costs[i] = g.Request.Cost
	}
	f.batches = append(f.batches, costs)
	f.now++
	f.most = max(f.most, f.now)
	takes := f.takes
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.now--
		f.mu.Unlock()
	}()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ports.ErrUnavailable, ctx.Err())
	}
	if f.panics.Load() {
		panic("out of order")
	}
	if err := f.fail.Load(); err != nil {
		return *err
	}
	for _, g := range groups {
		g.Result = ports.TakeResult{
			Verdict: domain.Allowed, Now: domain.Instant(g.Request.Cost),
			States: append(g.Result.States[:0], domain.State{Amount: domain.Credits(g.Request.Cost)}),
		}
	}
	return nil
}

func (f *fakeShard) sent() [][]domain.Tokens {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.batches)
}

// allPermitted is a client whose permission check finds nothing that is missing.
type allPermitted struct{}

func (allPermitted) Process(context.Context, redis.Cmder) error { return nil }

func newFakeBatcher(takes time.Duration) (*fakeShard, *Batcher) {
	f := &fakeShard{takes: takes}
	return f, New(Server{
		Name: "shard-0", Client: allPermitted{},
		Send: func(ctx context.Context, groups []*script.Group, _ domain.Instant) error {
			if f.onProbe != nil && groups[0].Request.Key == ProbeKey {
				return f.onProbe(ctx, groups)
			}
			return f.send(ctx, groups)
		},
		ProbeKey: func() (clientkey.BucketKey, error) { return ProbeKey, nil },
	}, 50*time.Millisecond, &Events{})
}

// ask is one call of n groups, of the costs first, first+1, ...
func ask(ctx context.Context, b *Batcher, first, n int) []ports.TakeResult {
	reqs, slots := make([]ports.TakeRequest, n), make([]int, n)
	for i := range reqs {
		reqs[i].Cost, slots[i] = domain.Tokens(first+i), i
	}
	results := make([]ports.TakeResult, n)
	b.Do(ctx, reqs, slots, results)
	return results
}

func requireOwn(t require.TestingT, results []ports.TakeResult, first int) {
	for i, r := range results {
		require.NoError(t, r.Err)
		require.Equal(t, domain.Instant(first+i), r.Now, "the answer to another request")
		require.Equal(t, []domain.State{{Amount: domain.Credits(first + i)}}, r.States)
	}
}

func TestBatcher_fillsTheNextBatchWhileOneIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFakeBatcher(time.Millisecond)
		var wg sync.WaitGroup
		for i := range 11 {
			wg.Go(func() { requireOwn(t, ask(t.Context(), b, i+1, 1), i+1) })
			synctest.Wait()
		}
		wg.Wait()
		assert.Equal(t, [][]domain.Tokens{{1}, {2, 3, 4, 5, 6, 7, 8, 9, 10, 11}}, f.sent())
	})
}

func TestBatcher_aLoneCallDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, ctx := range []context.Context{endless, t.Context()} {
			f, b := newFakeBatcher(time.Millisecond)
			start := time.Now()
			requireOwn(t, ask(ctx, b, 1, 1), 1)
			assert.Equal(t, time.Millisecond, time.Since(start))
			assert.Len(t, f.sent(), 1)
		}
	})
}

func TestBatcher_boundsBatchesAndTheirNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFakeBatcher(time.Millisecond)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { requireOwn(t, ask(t.Context(), b, 100*i, 30), 100*i) })
		}
		wg.Wait()
		assert.Equal(t, maxInFlight, f.most)
		groups := 0
		for _, batch := range f.sent() {
			assert.LessOrEqual(t, len(batch), script.MaxGroups)
			assert.Zero(t, len(batch)%30, "an item is sent in one batch")
			groups += len(batch)
		}
		assert.Equal(t, 3000, groups)
		synctest.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		assert.Zero(t, b.inFlight)
		assert.Zero(t, b.queue.groups)
	})
}

func TestBatcher_aLargeCallKeepsItsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFakeBatcher(time.Millisecond)
		requireOwn(t, ask(t.Context(), b, 0, 1000), 0)
		assert.Equal(t, 1, f.most, "the second part is sent when the first is answered")
		var all []domain.Tokens
		for _, batch := range f.sent() {
			all = append(all, batch...)
		}
		assert.True(t, slices.IsSorted(all))
		assert.Len(t, all, 1000)
	})
}

func TestBatcher_aFullQueueIsOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b := newFakeBatcher(20 * time.Millisecond)
		var wg sync.WaitGroup
		overloaded := atomic.Int64{}
		for i := range maxQueued/script.MaxGroups + maxInFlight + 3 {
			wg.Go(func() {
				for _, r := range ask(t.Context(), b, i*1000, script.MaxGroups) {
					if errors.Is(r.Err, ports.ErrOverloaded) {
						overloaded.Add(1)
					}
				}
			})
			synctest.Wait()
		}
		assert.EqualValues(t, 3*script.MaxGroups, overloaded.Load(), "what does not fit is answered at once")
		wg.Wait()
		requireOwn(t, ask(t.Context(), b, 1, 1), 1)
	})
}

func TestBatcher_callersThatLeaveDoNotFillTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b := newFakeBatcher(20 * time.Millisecond)
		var wg sync.WaitGroup
		for i := range maxInFlight {
			wg.Go(func() { requireOwn(t, ask(t.Context(), b, i*1000, script.MaxGroups), i*1000) })
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range maxQueued / script.MaxGroups {
			wg.Go(func() { assert.ErrorIs(t, ask(ctx, b, 1, script.MaxGroups)[0].Err, context.Canceled) })
		}
		synctest.Wait()
		require.ErrorIs(t, ask(t.Context(), b, 1, 1)[0].Err, ports.ErrOverloaded)
		cancel()
		synctest.Wait()
		assert.Zero(t, b.Stats("shard-0").Queued)
		requireOwn(t, ask(t.Context(), b, 1, 1), 1)
		wg.Wait()
		synctest.Wait()
		assert.Zero(t, b.Stats("shard-0").InFlight)
	})
}

func TestBatcher_waitingTooLongIsOverloadUnlessTheShardFails(t *testing.T) {
	down := fmt.Errorf("%w: down", ports.ErrUnavailable)
	for _, c := range []struct {
		fail error
		want error
	}{{nil, ports.ErrOverloaded}, {down, ports.ErrUnavailable}} {
		synctest.Test(t, func(t *testing.T) {
			f, b := newFakeBatcher(26 * time.Millisecond) // more than half of the budget
			if c.fail != nil {
				f.fail.Store(&c.fail)
			}
			var wg sync.WaitGroup
			wg.Go(func() { ask(t.Context(), b, 1, 1) })
			synctest.Wait()
			start := time.Now()
			r := ask(t.Context(), b, 2, 1)
			require.ErrorIs(t, r[0].Err, c.want)
			require.ErrorIs(t, r[0].Err, ports.ErrNotRun)
			assert.Equal(t, 26*time.Millisecond, time.Since(start))
			wg.Wait()
			assert.Equal(t, [][]domain.Tokens{{1}}, f.sent(), "it was not sent")
		})
	}
}

func TestBatcher_theBudgetEndsABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b := newFakeBatcher(time.Hour)
		for _, ctx := range []context.Context{endless, t.Context()} {
			start := time.Now()
			r := ask(ctx, b, 1, 300)
			for _, slot := range r {
				require.ErrorIs(t, slot.Err, ports.ErrUnavailable)
			}
			assert.Equal(t, b.budget, time.Since(start), "after a failure no more is sent")
		}
	})
}

func TestBatcher_aCancelledCallDoesNotDisturbOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFakeBatcher(10 * time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		leave := func(cost int, ran error) {
			wg.Go(func() {
				r := ask(ctx, b, cost, 1)
				assert.ErrorIs(t, r[0].Err, context.Canceled)
				assert.ErrorIs(t, r[0].Err, ports.ErrUnavailable)
				assert.ErrorIs(t, r[0].Err, ran)
			})
			synctest.Wait()
		}
		leave(1, failure.ErrMayHaveRun)
		leave(2, ports.ErrNotRun)
		wg.Go(func() { requireOwn(t, ask(t.Context(), b, 3, 1), 3) })
		synctest.Wait()
		start := time.Now()
		cancel()
		synctest.Wait()
		assert.Zero(t, time.Since(start), "they leave at once")
		wg.Wait()
		assert.Equal(t, [][]domain.Tokens{{1}, {3}}, f.sent(), "what was not sent is dropped")
	})
}

// A panic below a batch fails that batch, and nothing else: on the goroutine of a caller that waits for the server itself,
// on the batcher's, and in a tracer.
func TestBatcher_aPanicFailsItsOwnBatchAlone(t *testing.T) {
	for name, c := range map[string]struct {
		ctx    func(*testing.T) context.Context
		traced bool
	}{
		"caller's goroutine":  {ctx: func(*testing.T) context.Context { return endless }},
		"batcher's goroutine": {ctx: (*testing.T).Context},
		"in a tracer":         {ctx: func(*testing.T) context.Context { return endless }, traced: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *brokenShard) {
				var reported []failure.PanicError
				s.events.OnPanic(func(shard string, p *failure.PanicError) {
					assert.Equal(t, "shard-0", shard)
					reported = append(reported, *p)
				})
				if c.traced {
					s.events.Trace(panicking{})
				} else {
					s.panics.Store(true)
				}
				var wg sync.WaitGroup
				for i := range 3 { // the first is sent alone, the others together
					wg.Go(func() {
						r := ask(c.ctx(t), s.Batcher, i, 1)
						assert.ErrorIs(t, r[0].Err, ports.ErrUnavailable)
						assert.ErrorIs(t, r[0].Err, failure.ErrMayHaveRun)
						assert.ErrorContains(t, r[0].Err, "a panic: out of order")
					})
					synctest.Wait()
				}
				wg.Wait()
				require.Len(t, reported, 2)
				assert.Equal(t, "out of order", reported[0].Reason)
				assert.Contains(t, string(reported[0].Stack), "batcher_test.go")

				stats := s.Stats("shard-0")
				assert.Zero(t, stats.InFlight)
				assert.Zero(t, stats.Queued)
				assert.True(t, stats.Up, "a panic here says nothing about the server")
				if !c.traced {
					assert.EqualValues(t, 2, stats.Failures[string(failure.Panic)])
				}
				s.panics.Store(false)
				s.events.Trace(nil)
				requireOwn(t, ask(endless, s.Batcher, 1, 3), 1)
				requireOwn(t, ask(t.Context(), s.Batcher, 1, 3), 1)
			})
		})
	}
}

// panicking is a tracer that panics when a batch ends.
type panicking struct{ ports.Tracer }

func (panicking) Batch(string, int, []context.Context) func(error) {
	time.Sleep(time.Millisecond)
	return func(error) { panic("out of order") }
}

func TestBatcher_answersAreNeverMixedUp(t *testing.T) {
	f, b := newFakeBatcher(50 * time.Microsecond)
	b.budget = time.Minute
	var wg sync.WaitGroup
	var served, left atomic.Int64
	for g := range 64 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for i := range 200 {
				ctx, cancel := endless, func() {}
				if r.IntN(3) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(300))*time.Microsecond)
				}
				first := 1_000_000*g + 1000*i
				results := ask(ctx, b, first, 1+r.IntN(4))
				cancel()
				if results[0].Err != nil {
					assert.ErrorIs(t, results[0].Err, context.DeadlineExceeded)
					left.Add(1)
					continue
				}
				requireOwn(t, results, first)
				served.Add(1)
			}
		})
	}
	wg.Wait()
	assert.NotZero(t, left.Load())
	assert.NotZero(t, served.Load())
	assert.Less(t, len(f.sent()), int(served.Load()), "calls share batches")
	requireOwn(t, ask(endless, b, 7, 3), 7)
}

func TestBatcher_eachBatchOfACallHasTheWholeBudget(t *testing.T) {
	for _, mayOverrun := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			_, b := newFakeBatcher(30 * time.Millisecond)
			b.server.MayOverrun = mayOverrun
			n := 3 * script.MaxGroups
			requireOwn(t, ask(endless, b, 1, n), 1)
		})
	}
}

// A borrowed client may ignore its context, so a probe may go on after Stop.
func TestBatcher_aProbeThatOverrunsIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(*testing.T) {
		f, b := newFakeBatcher(time.Millisecond)
		b.server.MayOverrun = true
		probing, answered := make(chan struct{}), make(chan struct{})
		f.onProbe = func(context.Context, []*script.Group) error {
			close(probing)
			<-answered
			return nil
		}
		down := error(failure.ScriptError("LOADING"))
		f.fail.Store(&down)
		for range tripInARow {
			ask(endless, b, 1, 1)
		}
		<-probing
		b.Stop()
		b.Wait()
		close(answered)
	})
}
