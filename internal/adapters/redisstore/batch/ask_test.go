package batch

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// sending is one call of Send: the costs of its groups, and the time that was passed on.
type sending struct {
	costs []domain.Tokens
	now   domain.Instant
}

// clockShard is a server with a clock. The groups whose costs are below wrong have another period than they were sent, while
// the time that is sent is not right.
type clockShard struct {
	ahead    time.Duration
	wrong    domain.Tokens
	always   bool  // the clock jumps whenever it is asked
	onAgain  error // of the second sending
	sendings []sending
}

func (s *clockShard) send(_ context.Context, groups []*script.Group, now domain.Instant) error {
	x := sending{now: now}
	at := domain.InstantOf(time.Now().Add(s.ahead))
	for _, g := range groups {
		x.costs = append(x.costs, g.Request.Cost)
		g.Result = ports.TakeResult{Now: at, Verdict: domain.Allowed}
		if g.Request.Cost < s.wrong && (s.always || now != at) {
			g.Result = ports.TakeResult{Now: at, Err: script.ErrWrongPeriod}
		}
	}
	s.sendings = append(s.sendings, x)
	if len(s.sendings) == 2 {
		return s.onAgain
	}
	return nil
}

func (s *clockShard) batcher() *Batcher {
	return New(Server{
		Name: "shard-0", Client: allPermitted{}, Send: s.send,
		ProbeKey: func() (clientkey.BucketKey, error) { return ProbeKey, nil },
	}, 50*time.Millisecond, &Events{})
}

func TestAsk_learnsTheServersClockFromTheWrongPeriodAndAsksOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &clockShard{ahead: -3 * time.Hour, wrong: 3}
		b := s.batcher()
		defer b.Stop()
		time.Sleep(time.Minute)
		here := domain.InstantOf(time.Now())
		for _, r := range ask(endless, b, 1, 4) {
			require.NoError(t, r.Err)
			assert.Equal(t, domain.Allowed, r.Verdict)
		}
		require.Equal(t, []sending{
			{[]domain.Tokens{1, 2, 3, 4}, here},
			{[]domain.Tokens{1, 2}, here.Add(-3 * time.Hour)},
		}, s.sendings)

		time.Sleep(90 * time.Minute)
		require.NoError(t, ask(endless, b, 1, 1)[0].Err)
		require.Len(t, s.sendings, 3, "the server's clock is known now")
		assert.Equal(t, here.Add(-90*time.Minute), s.sendings[2].now)
	})
}

// Before the nodes of a Cluster are known, one batch goes to all of them.
func TestAsk_asksOnceMoreForEachClockOfTheNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here := domain.InstantOf(time.Now())
		times := []domain.Instant{here, here.Add(3 * time.Hour), here.Add(-3 * time.Hour)}
		var sendings []sending
		b := New(Server{
			Name: "cluster", Client: allPermitted{},
			Send: func(_ context.Context, groups []*script.Group, now domain.Instant) error {
				x := sending{now: now}
				for _, g := range groups {
					x.costs = append(x.costs, g.Request.Cost)
					g.Result = ports.TakeResult{Now: times[g.Request.Cost%3], Verdict: domain.Allowed}
					if g.Result.Now != now {
						g.Result = ports.TakeResult{Now: g.Result.Now, Err: script.ErrWrongPeriod}
					}
				}
				sendings = append(sendings, x)
				return nil
			},
			ProbeKey: func() (clientkey.BucketKey, error) { return ProbeKey, nil },
		}, 50*time.Millisecond, &Events{})
		defer b.Stop()
		for _, r := range ask(endless, b, 1, 5) {
			require.NoError(t, r.Err)
			assert.Equal(t, domain.Allowed, r.Verdict)
		}
		assert.Equal(t, []sending{
			{[]domain.Tokens{1, 2, 3, 4, 5}, here},
			{[]domain.Tokens{1, 2, 4, 5}, times[1]},
			{[]domain.Tokens{2, 5}, times[2]},
		}, sendings)
	})
}

func TestAsk_aSecondWrongPeriodIsAnErrorOfThoseGroups(t *testing.T) {
	for name, c := range map[string]struct {
		shard clockShard
		want  error
	}{
		"the clock jumps again": {clockShard{wrong: 2, always: true}, script.ErrWrongPeriod},
		"the answer is lost":    {clockShard{ahead: time.Hour, wrong: 2, onAgain: errLost}, errLost},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := c.shard.batcher()
			defer b.Stop()
			for range 2 * tripInARow {
				c.shard.sendings = nil
				results := ask(endless, b, 1, 2)
				require.ErrorIs(t, results[0].Err, c.want, name)
				require.ErrorIs(t, results[0].Err, ports.ErrUnavailable, name)
				require.NoError(t, results[1].Err, name)
				require.Len(t, c.shard.sendings, 2, "%s: once more, and not again", name)
				b.clock.ahead.Store(0)
			}
			assert.True(t, b.breaker.up(), "%s: the server decides others", name)
		})
	}
}

func TestAsk_aClockThatJumpsIsNoReasonNotToAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &clockShard{wrong: 2, always: true}
		b := s.batcher()
		defer b.Stop()
		for range 2 * tripInARow {
			require.ErrorIs(t, ask(endless, b, 1, 1)[0].Err, script.ErrWrongPeriod)
		}
		assert.True(t, b.breaker.up())
		refused := []*script.Group{{Result: ports.TakeResult{Err: script.ErrWrongPeriod}}}
		assert.Equal(t, healthAlive, outcomeOf(refused, nil).health)
	})
}

var errLost = errors.Join(ports.ErrUnavailable, errors.New("lost"))
