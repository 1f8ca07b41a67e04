package redisstore

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

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// endless is the context of a caller that nobody can call away; a test's own context ends.
var endless = context.Background()

// fakeShard answers each group with its own cost as the time, so that a mixed-up answer shows. It takes a while.
type fakeShard struct {
	takes time.Duration
	fail  atomic.Pointer[error]

	mu      sync.Mutex
	batches [][]domain.Tokens // the costs of each batch, in the order of their sending
	most    int               // most batches under way at once
	now     int
}

func (f *fakeShard) send(ctx context.Context, groups []*group) error {
	f.mu.Lock()
	costs := make([]domain.Tokens, len(groups))
	for i, g := range groups {
		costs[i] = g.req.Cost
	}
	f.batches = append(f.batches, costs)
	f.now++
	f.most = max(f.most, f.now)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.now--
		f.mu.Unlock()
	}()
	select {
	case <-time.After(f.takes):
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ports.ErrUnavailable, ctx.Err())
	}
	if err := f.fail.Load(); err != nil {
		return *err
	}
	for _, g := range groups {
		g.result = ports.TakeResult{
			Verdict: domain.Allowed, Now: domain.Instant(g.req.Cost),
			Buckets: append(g.result.Buckets[:0], domain.Bucket{Credits: domain.Credits(g.req.Cost)}),
		}
	}
	return nil
}

func (f *fakeShard) sent() [][]domain.Tokens {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.batches)
}

func newFakeBatcher(takes time.Duration) (*fakeShard, *batcher) {
	f := &fakeShard{takes: takes}
	const budget = 50 * time.Millisecond
	return f, newBatcher("shard-0", budget, f.send, newGuard("shard-0", budget, &notices{}, questions{
		probe:       func(ctx context.Context) error { return f.send(ctx, nil) },
		permissions: func(context.Context) error { return nil },
	}))
}

// ask is one call of n groups, of the costs first, first+1, ...
func ask(ctx context.Context, b *batcher, first, n int) []ports.TakeResult {
	reqs, slots := make([]ports.TakeRequest, n), make([]int, n)
	for i := range reqs {
		reqs[i].Cost, slots[i] = domain.Tokens(first+i), i
	}
	results := make([]ports.TakeResult, n)
	b.do(ctx, reqs, slots, results)
	return results
}

func requireOwn(t require.TestingT, results []ports.TakeResult, first int) {
	for i, r := range results {
		require.NoError(t, r.Err)
		require.Equal(t, domain.Instant(first+i), r.Now, "somebody else's answer")
		require.Equal(t, []domain.Bucket{{Credits: domain.Credits(first + i)}}, r.Buckets)
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

func TestBatcher_aLoneCallWaitsForNobody(t *testing.T) {
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
			assert.LessOrEqual(t, len(batch), maxGroups)
			assert.Zero(t, len(batch)%30, "a chunk rides in one batch")
			groups += len(batch)
		}
		assert.Equal(t, 3000, groups)
		synctest.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		assert.Zero(t, b.inFlight)
		assert.Zero(t, b.queued)
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
		for i := range maxQueued/maxGroups + maxInFlight + 3 {
			wg.Go(func() {
				for _, r := range ask(t.Context(), b, i*1000, maxGroups) {
					if errors.Is(r.Err, ports.ErrOverloaded) {
						overloaded.Add(1)
					}
				}
			})
			synctest.Wait()
		}
		assert.EqualValues(t, 3*maxGroups, overloaded.Load(), "what does not fit is answered at once")
		wg.Wait()
		requireOwn(t, ask(t.Context(), b, 1, 1), 1)
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
			require.ErrorContains(t, r[0].Err, string(notRun))
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

func TestBatcher_aCallerWhoLeavesDisturbsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFakeBatcher(10 * time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		leave := func(cost int, ran effect) {
			wg.Go(func() {
				r := ask(ctx, b, cost, 1)
				assert.ErrorIs(t, r[0].Err, context.Canceled)
				assert.ErrorIs(t, r[0].Err, ports.ErrUnavailable)
				assert.ErrorContains(t, r[0].Err, string(ran))
			})
			synctest.Wait()
		}
		leave(1, mayHaveRun)
		leave(2, notRun)
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
	assert.Less(t, len(f.sent()), int(served.Load()), "calls rode together")
	requireOwn(t, ask(endless, b, 7, 3), 7)
}
