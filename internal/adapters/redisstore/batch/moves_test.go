package batch

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// movingShard is a node that has only some of the keys of the groups whose costs are below moving, until they have moved. Each
// batch takes a tenth of a millisecond.
type movingShard struct {
	*fakeShard
	moving domain.Tokens
	until  time.Time
}

func newMovingShard(moving domain.Tokens, moves time.Duration) (*movingShard, *Batcher) {
	f, b := newFakeBatcher(100 * time.Microsecond)
	s := &movingShard{f, moving, time.Now().Add(moves)}
	b.server.Send = func(ctx context.Context, groups []*script.Group, _ domain.Instant) error {
		if b.server.MayOverrun {
			ctx = context.WithoutCancel(ctx)
		}
		if err := f.send(ctx, groups); err != nil {
			return err
		}
		for _, g := range groups {
			if g.Request.Cost < s.moving && time.Now().Before(s.until) {
				Fail(&g.Result, script.Unavailable("shard-0", failure.ScriptError("TRYAGAIN Multiple keys request during rehashing of slot")))
			}
		}
		return nil
	}
	return s, b
}

// take has further batches take that long.
func (s *movingShard) take(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes = d
}

func TestMoves_onlyTheSlotsThatMoveAreSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newMovingShard(3, 6*time.Millisecond)
		requireOwn(t, ask(endless, b, 1, 4), 1)
		assert.Equal(t, [][]domain.Tokens{{1, 2, 3, 4}, {1, 2}, {1, 2}, {1, 2}}, s.sent(), "after 1 ms, 2 ms and 4 ms, or a little more")
		assert.EqualValues(t, 3, b.Stats("shard-0").Failures[string(failure.Moved)])
	})
}

func TestMoves_noOtherCallerOfTheBatchWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newMovingShard(3, 6*time.Millisecond)
		var wg sync.WaitGroup
		start := time.Now()
		wg.Go(func() { requireOwn(t, ask(endless, b, 9, 1), 9) })
		synctest.Wait()
		for _, cost := range []int{1, 5} { // together in the next batch
			wg.Go(func() {
				requireOwn(t, ask(t.Context(), b, cost, 1), cost)
				if cost == 5 {
					assert.Equal(t, 200*time.Microsecond, time.Since(start))
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		assert.Equal(t, []domain.Tokens{1, 5}, s.sent()[1])
	})
}

func TestMoves_aSlotThatGoesOnMovingIsRefusedWhenHalfOfTheBudgetIsSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newMovingShard(3, time.Hour)
		for range 2 * tripInARow {
			sent, start := len(s.sent()), time.Now()
			results := ask(endless, b, 2, 2)
			require.ErrorIs(t, results[0].Err, ports.ErrUnavailable)
			require.ErrorIs(t, results[0].Err, ports.ErrNotRun)
			require.ErrorContains(t, results[0].Err, "not carried out: TRYAGAIN")
			requireOwn(t, results[1:], 3)
			assert.LessOrEqual(t, time.Since(start), b.budget/2)
			assert.Len(t, s.sent()[sent:], 5, "after 1 ms, 2 ms, 4 ms and 8 ms")
		}
		s.moving = 10
		for range 2 * tripInARow {
			require.Error(t, ask(endless, b, 2, 2)[0].Err)
		}
		assert.True(t, b.breaker.up(), "a node with slots that move decides others")
	})
}

func TestMoves_aSlotIsSentAgainSixTimesAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newMovingShard(3, time.Hour)
		b.budget = time.Minute
		start := time.Now()
		require.ErrorContains(t, ask(endless, b, 2, 1)[0].Err, "not carried out: TRYAGAIN")
		assert.Len(t, s.sent(), 7)
		assert.Less(t, time.Since(start), 80*time.Millisecond)
	})
}

func TestMoves_aCallerThatLeavesDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newMovingShard(3, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		start := time.Now()
		results := ask(ctx, b, 2, 2)
		assert.Equal(t, 5*time.Millisecond, time.Since(start))
		require.ErrorIs(t, results[0].Err, context.DeadlineExceeded)
		require.ErrorIs(t, results[0].Err, ports.ErrNotRun)
		requireOwn(t, results[1:], 3)
		assert.Len(t, s.sent(), 3)
	})
}

// A policy that fails open must not let a flood pass because slots move.
func TestMoves_aRequestThatIsNotSentAgainInTimeIsOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newMovingShard(3, time.Hour)
		var wg sync.WaitGroup
		wg.Go(func() { assert.ErrorIs(t, ask(t.Context(), b, 1, 1)[0].Err, ports.ErrOverloaded) })
		time.Sleep(12 * time.Millisecond) // it has been refused four times, and is sent again when 15 ms have passed
		s.take(30 * time.Millisecond)
		wg.Go(func() { requireOwn(t, ask(t.Context(), b, 7, 1), 7) })
		wg.Wait()
		assert.Equal(t, []domain.Tokens{7}, s.sent()[len(s.sent())-1])
	})
}

// A request that is sent again has waited already: its batch must end when its own budget does.
func TestMoves_aBatchEndsWithTheBudgetOfItsOldestRequest(t *testing.T) {
	for _, mayOverrun := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, b := newMovingShard(3, time.Hour)
			b.server.MayOverrun = mayOverrun
			var wg sync.WaitGroup
			start := time.Now()
			wg.Go(func() {
				r := ask(t.Context(), b, 1, 1)
				assert.ErrorIs(t, r[0].Err, context.DeadlineExceeded)
				assert.Equal(t, b.budget, time.Since(start), fmt.Sprint(r[0].Err))
			})
			time.Sleep(6 * time.Millisecond) // it has been refused three times, and is sent again when 7 ms have passed
			s.take(5 * time.Millisecond)
			wg.Go(func() { requireOwn(t, ask(t.Context(), b, 7, 1), 7) })
			time.Sleep(time.Millisecond)
			wg.Go(func() { ask(t.Context(), b, 8, 1) }) // younger, and before it in the queue
			time.Sleep(time.Millisecond)
			s.take(b.budget)
			wg.Wait()
			assert.Contains(t, s.sent(), []domain.Tokens{8, 1})
			time.Sleep(b.budget) // for the batch that overruns
		})
	}
}
