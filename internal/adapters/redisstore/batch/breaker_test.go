package batch

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// brokenShard is a shard behind a breaker, and the events of the breaker.
type brokenShard struct {
	*fakeShard
	*Batcher
	changes []BreakerChange
}

// bubble runs a test in a synctest bubble, on a shard that takes a millisecond for a batch. It stops the probes at the end.
func bubble(t *testing.T, test func(t *testing.T, s *brokenShard)) {
	synctest.Test(t, func(t *testing.T) {
		s := &brokenShard{}
		s.fakeShard, s.Batcher = newFakeBatcher(time.Millisecond)
		s.events.OnBreaker(func(c BreakerChange) { s.changes = append(s.changes, c) })
		test(t, s)
		s.Stop()
		s.Wait()
	})
}

func (s *brokenShard) dies(of error) {
	err := fmt.Errorf("%w: %w", ports.ErrUnavailable, of)
	s.fail.Store(&err)
}

func (s *brokenShard) lives() { s.fail.Store(nil) }

// asks makes n calls, one after the other, and returns the last one's error.
func (s *brokenShard) asks(n int) error {
	var err error
	for range n {
		err = ask(endless, s.Batcher, 1, 1)[0].Err
	}
	return err
}

func (s *brokenShard) isOpen() bool {
	return s.Stats("shard-0").Breaker != ports.BreakerClosed
}

func TestBreaker_opensAfterFiveFailuresInARow(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		s.dies(io.EOF)
		require.ErrorIs(t, s.asks(4), io.EOF)
		s.lives()
		require.NoError(t, s.asks(1))
		s.dies(io.EOF)
		require.ErrorIs(t, s.asks(4), io.EOF)
		require.False(t, s.isOpen(), "the success in between ended the row")
		require.ErrorIs(t, s.asks(1), io.EOF)
		require.True(t, s.isOpen())

		start, sent := time.Now(), len(s.sent())
		err := s.asks(1)
		require.ErrorIs(t, err, ports.ErrUnavailable)
		require.NotErrorIs(t, err, io.EOF, "it has not failed in that way itself")
		require.ErrorIs(t, err, ports.ErrNotRun)
		require.ErrorContains(t, err, "EOF", "the cause can be read")
		assert.Zero(t, time.Since(start), "no call waits")
		assert.Len(t, s.sent(), sent, "nothing is sent")
	})
}

func TestBreaker_opensThoughFailuresAreFarApart(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		s.dies(io.EOF)
		for range 4 {
			require.ErrorIs(t, s.asks(1), io.EOF)
			time.Sleep(time.Hour)
		}
		require.ErrorIs(t, s.asks(1), io.EOF)
		assert.True(t, s.isOpen())
	})
}

func TestBreaker_opensWhenHalfOfASecondsCallsFail(t *testing.T) {
	for _, c := range []struct {
		failures, successes int
		apart               time.Duration
		opens               bool
	}{
		{10, 10, time.Millisecond, true},
		{9, 10, time.Millisecond, false},        // too few calls
		{9, 11, time.Millisecond, false},        // less than half
		{40, 40, 120 * time.Millisecond, false}, // too few in a second
	} {
		bubble(t, func(t *testing.T, s *brokenShard) {
			for i := range max(c.failures, c.successes) {
				if i < c.successes {
					s.lives()
					_ = s.asks(1)
				}
				if i < c.failures {
					s.dies(io.EOF)
					_ = s.asks(1)
				}
				time.Sleep(c.apart)
			}
			assert.Equal(t, c.opens, s.isOpen(), "%+v", c)
		})
	}
}

func TestBreaker_closingForgetsTheFailuresOfBefore(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		s.dies(io.EOF)
		require.Error(t, s.asks(5))
		s.lives()
		for s.isOpen() {
			time.Sleep(time.Millisecond)
		}
		for range 9 {
			require.NoError(t, s.asks(1))
			s.dies(io.EOF)
			require.Error(t, s.asks(1))
			s.lives()
		}
		require.NoError(t, s.asks(2))
		assert.False(t, s.isOpen(), "9 of 20 failed since; with those of before it would be 14 of 25, all within a second")
	})
}

func TestBreaker_whatIsNoOutageNeverOpensIt(t *testing.T) {
	for _, err := range []error{
		context.Canceled, failure.ScriptError("NOSCRIPT No matching script."), failure.ScriptError("MOVED 1 127.0.0.1:1"),
		failure.ScriptError("CROSSSLOT Keys in request don't hash to the same slot"),
	} {
		bubble(t, func(t *testing.T, s *brokenShard) {
			s.dies(err)
			require.ErrorIs(t, s.asks(100), err)
			assert.False(t, s.isOpen())
		})
	}
}

func TestBreaker_overloadNeverOpensIt(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		s.takes = 20 * time.Millisecond
		var wg sync.WaitGroup
		for i := range 20 * maxQueued / script.MaxGroups { // the queue is full, and what is in it waits too long
			wg.Go(func() { ask(t.Context(), s.Batcher, i, script.MaxGroups) })
		}
		wg.Wait()
		assert.False(t, s.isOpen())
		stats := s.Stats("shard-0")
		assert.True(t, stats.Up)
		assert.NotZero(t, stats.Overloaded)
		assert.Equal(t, uint64(20*maxQueued), stats.Groups+stats.Overloaded, "each is sent or counted")
		assert.Zero(t, stats.Refused)
	})
}

func TestBreaker_aCancelledCallNeverOpensIt(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Microsecond)
			require.ErrorIs(t, ask(ctx, s.Batcher, 1, 1)[0].Err, context.DeadlineExceeded)
			cancel()
		}
		time.Sleep(time.Second)
		assert.False(t, s.isOpen())
	})
}

func TestBreaker_oneGroupsFaultIsNotTheShards(t *testing.T) {
	for _, c := range []struct {
		message string
		all     bool
		opens   bool
	}{
		{"WRONGTYPE Operation against a key holding the wrong kind of value", true, false},
		{"CORRUPT field b:burst does not hold a bucket", true, false},
		{"NOPERM this user has no permissions to run the 'hset' command", true, true},
		{"NOPERM No permissions to access a key", false, false}, // another key may be decided
	} {
		bubble(t, func(t *testing.T, s *brokenShard) {
			s.server.Send = func(_ context.Context, groups []*script.Group, _ domain.Instant) error {
				for i, g := range groups {
					if g.Result = (ports.TakeResult{}); c.all || i == 0 {
						g.Result.Err = fmt.Errorf("%w: %w", ports.ErrUnavailable, failure.ScriptError(c.message))
					}
				}
				return nil
			}
			for range 10 {
				ask(endless, s.Batcher, 1, 2)
			}
			assert.Equal(t, c.opens, s.isOpen(), c.message)
		})
	}
}

func TestBreaker_whatWaitsWhenItOpensIsAnsweredAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		s.dies(io.EOF)
		require.Error(t, s.asks(4))
		s.takes = 20 * time.Millisecond
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() { assert.ErrorIs(t, ask(t.Context(), s.Batcher, i, 3)[0].Err, ports.ErrUnavailable) })
		}
		wg.Wait()
		assert.Equal(t, 20*time.Millisecond, time.Since(start), "with the batches that were under way")
		assert.True(t, s.isOpen())
		stats := s.Stats("shard-0")
		assert.Equal(t, uint64(3004), stats.Groups+stats.Refused)
		assert.Zero(t, stats.Queued)
		assert.Zero(t, stats.InFlight)
	})
}

func TestBreaker_probesUntilTheShardIsBack(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		var probes []time.Time
		s.onProbe = func(context.Context, []*script.Group) error {
			probes = append(probes, time.Now())
			if err := s.fail.Load(); err != nil {
				return *err
			}
			return nil
		}
		s.dies(io.EOF)
		require.Error(t, s.asks(5))
		opened := time.Now()
		time.Sleep(time.Minute)
		synctest.Wait()
		require.True(t, s.isOpen())
		last := opened
		for i, at := range probes {
			apart := at.Sub(last)
			assert.GreaterOrEqual(t, apart, probeFirst, "probe %d", i)
			assert.LessOrEqual(t, apart, 500*time.Millisecond, "probe %d", i)
			last = at
		}
		assert.LessOrEqual(t, probes[0].Sub(opened), 125*time.Millisecond)
		assert.NotEqual(t, probes[50].Sub(probes[49]), probes[51].Sub(probes[50]), "they are jittered")

		s.lives()
		back := time.Now()
		for s.isOpen() {
			time.Sleep(time.Millisecond)
		}
		assert.LessOrEqual(t, time.Since(back), 501*time.Millisecond)
		synctest.Wait()
		count := len(probes)
		require.NoError(t, s.asks(1))
		time.Sleep(time.Minute)
		assert.Len(t, probes, count, "a shard that is asked is not probed")

		require.Len(t, s.changes, 2)
		assert.Equal(t, BreakerChange{Shard: "shard-0", Open: true, At: opened, Cause: s.changes[0].Cause, Kind: failure.Closed}, s.changes[0])
		require.ErrorIs(t, s.changes[0].Cause, io.EOF)
		assert.Equal(t, BreakerChange{Shard: "shard-0", At: opened, Outage: probes[count-1].Sub(opened)}, s.changes[1])
		stats := s.Stats("shard-0")
		assert.Equal(t, uint64(1), stats.Openings)
		assert.True(t, stats.Up)
		assert.Equal(t, probes[count-1], stats.Since)
		assert.Equal(t, uint64(6), stats.Batches, "the probes are not among them")
	})
}

func TestBreaker_aProbeAsksForADecisionAndWaitsForTheBudget(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		var waited time.Duration
		s.onProbe = func(ctx context.Context, groups []*script.Group) error {
			assert.Equal(t, domain.OpTake, groups[0].Request.Op)
			assert.Len(t, groups, 2)
			assert.Equal(t, ports.BreakerHalfOpen, s.Stats("shard-0").Breaker)
			start := time.Now()
			<-ctx.Done()
			waited = time.Since(start)
			return ctx.Err()
		}
		s.dies(io.EOF)
		require.Error(t, s.asks(5))
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, s.budget, waited)
		assert.True(t, s.isOpen())
	})
}

func TestBreaker_answersToWhatWasSentBeforeItOpenedDoNotCloseIt(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		s.onProbe = func(ctx context.Context, _ []*script.Group) error {
			<-ctx.Done()
			return ctx.Err()
		}
		s.dies(io.EOF)
		require.Error(t, s.asks(5))
		for s.Stats("shard-0").Breaker != ports.BreakerHalfOpen {
			time.Sleep(time.Millisecond)
		}
		for range 100 {
			s.record([]*script.Group{{}}, time.Now(), nil)
		}
		assert.Equal(t, ports.BreakerHalfOpen, s.Stats("shard-0").Breaker)
		assert.True(t, s.isOpen())
	})
}

func TestBreaker_aPanicOpensNoBreakerAndClosesNone(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		s.panics.Store(true)
		require.Error(t, s.asks(30))
		require.False(t, s.isOpen(), "it says nothing about the server")
		s.panics.Store(false)
		s.dies(io.EOF)
		require.Error(t, s.asks(5))
		require.True(t, s.isOpen())

		s.panics.Store(true)
		time.Sleep(time.Minute)
		assert.True(t, s.isOpen(), "no probe has shown that the server decides")
		s.panics.Store(false)
		s.lives()
		time.Sleep(time.Second)
		assert.False(t, s.isOpen(), "the probes go on")
	})
}

func TestBreaker_stopEndsTheProbes(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		s.onProbe = func(ctx context.Context, _ []*script.Group) error {
			<-ctx.Done()
			return nil
		}
		s.dies(io.EOF)
		require.Error(t, s.asks(5))
		time.Sleep(150 * time.Millisecond)
		start := time.Now()
		s.Stop()
		s.Wait()
		assert.Zero(t, time.Since(start))
		assert.Len(t, s.changes, 1, "the shard is not back")
	})
}

func TestBreaker_aShardThatWasReplacedIsNoLongerDown(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		s.dies(io.EOF)
		require.Error(t, s.asks(5))
		s.Retire()
		s.Wait()
		require.Len(t, s.changes, 2)
		assert.False(t, s.changes[1].Open)
	})
}

func TestStats_countsBatchesAndFailures(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		require.NoError(t, s.asks(3))
		requireOwn(t, ask(endless, s.Batcher, 1, 100), 1)
		s.dies(errors.New("redis: can't parse"))
		require.Error(t, s.asks(2))
		stats := s.Stats("shard-7")
		assert.Equal(t, "shard-7", stats.Name)
		assert.False(t, stats.Up, "the last call failed")
		assert.Equal(t, ports.BreakerClosed, stats.Breaker)
		assert.Equal(t, uint64(6), stats.Batches)
		assert.Equal(t, uint64(105), stats.Groups)
		assert.Equal(t, uint64(2), stats.Failures[string(failure.Garbled)])
		assert.Len(t, stats.Failures, len(failure.Kinds()))
		assert.Equal(t, []uint64{5, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}, stats.BatchGroups.Counts)
		assert.InDelta(t, 105, stats.BatchGroups.Sum, 0)
		assert.Equal(t, []uint64{0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0}, stats.BatchSeconds.Counts)
		assert.InDelta(t, 0.006, stats.BatchSeconds.Sum, 1e-9)
		assert.Len(t, stats.BatchSeconds.Counts, len(stats.BatchSeconds.Bounds)+1)
	})
}

func TestClocks_areComparedWithinARoundTrip(t *testing.T) {
	bubble(t, func(t *testing.T, s *brokenShard) {
		type report struct {
			shard string
			ahead time.Duration
		}
		var all []report
		s.events.OnSkew(func(shard string, ahead time.Duration) { all = append(all, report{shard, ahead}) })
		for _, c := range []struct{ ahead, skew time.Duration }{
			{0, 0},
			{5 * time.Millisecond, 4 * time.Millisecond}, // the call took one
			{-5 * time.Millisecond, -5 * time.Millisecond},
			{time.Hour, time.Hour - time.Millisecond},
			{2 * time.Second, 1999 * time.Millisecond},
			{900 * time.Millisecond, 899 * time.Millisecond},
			{0, 0},
			{-time.Hour, -time.Hour},
		} {
			s.server.Send = func(_ context.Context, groups []*script.Group, _ domain.Instant) error {
				groups[0].Result = ports.TakeResult{Now: domain.InstantOf(time.Now().Add(c.ahead))}
				time.Sleep(time.Millisecond)
				return nil
			}
			require.NoError(t, s.asks(1))
			assert.Equal(t, c.skew, s.Stats("shard-0").ClockSkew)
		}
		assert.Equal(t, []report{
			{"shard-0", time.Hour - time.Millisecond}, {"shard-0", 0}, {"shard-0", -time.Hour},
		}, all, "reported when it begins and when it ends, and not for noise around the bound")
	})
}
