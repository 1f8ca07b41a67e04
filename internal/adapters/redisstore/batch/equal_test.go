package batch

import (
	"context"
	"errors"
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
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// levelShard is a server whose buckets do not refill: it answers as the script does, from one level for each key.
type levelShard struct {
	takes time.Duration
	fail  error // of each group

	mu     sync.Mutex
	levels map[clientkey.BucketKey]int64
	sent   [][]int // how many requests each group of a batch stands for
}

func (s *levelShard) send(_ context.Context, groups []*script.Group, _ domain.Instant) error {
	time.Sleep(s.takes)
	s.mu.Lock()
	defer s.mu.Unlock()
	reply := []any{int64(5), int64(1000)}
	var sizes []int
	for _, g := range groups {
		n := g.Requests()
		sizes = append(sizes, n)
		key := g.Request.Key
		level, ok := s.levels[key]
		if !ok {
			level = int64(g.Request.Limits[0].Full(1000).Amount)
		}
		spent := int64(g.Request.Cost) * int64(g.Request.Limits[0].TokenBucket().TokenCredits())
		passed := min(int64(n), level/spent)
		s.levels[key] = level - passed*spent
		switch {
		case s.fail != nil:
			reply = append(reply, int64(-1), s.fail.Error())
		case n > 1:
			reply = append(reply, 4+passed, level)
		default:
			reply = append(reply, passed, s.levels[key])
		}
	}
	s.sent = append(s.sent, sizes)
	return script.DecodeReply(reply, groups)
}

func newLevelShard(t *testing.T, takes time.Duration) (*levelShard, *Batcher) {
	t.Helper()
	s := &levelShard{takes: takes, levels: make(map[clientkey.BucketKey]int64)}
	b := New(Server{
		Name: "shard-0", Client: allPermitted{}, Send: s.send,
		ProbeKey: func() (clientkey.BucketKey, error) { return ProbeKey, nil },
	}, 50*time.Millisecond, &Events{})
	t.Cleanup(b.Stop)
	return s, b
}

func tenPerHour(t *testing.T) []domain.Limit {
	t.Helper()
	l, err := domain.NewBucket("burst", 10, 1, time.Hour)
	require.NoError(t, err)
	return []domain.Limit{l}
}

// takeOf is one take of the key by a call of its own.
func takeOf(ctx context.Context, b *Batcher, limits []domain.Limit, key string) ports.TakeResult {
	results := make([]ports.TakeResult, 1)
	b.Do(ctx, []ports.TakeRequest{{Key: clientkey.BucketKey(key), Limits: limits, Cost: 1}}, []int{0}, results)
	return results[0]
}

func TestBatcher_equalTakesAreOneGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newLevelShard(t, time.Millisecond)
		limits := tenPerHour(t)
		var wg sync.WaitGroup
		wg.Go(func() { takeOf(endless, b, limits, "first") })
		synctest.Wait()
		left := make([]domain.Tokens, 15) // after each take, in the order in which they are queued
		verdicts := make([]domain.Verdict, len(left))
		for i := range left {
			wg.Go(func() {
				r := takeOf(endless, b, limits, "all")
				require.NoError(t, r.Err)
				left[i], verdicts[i] = limits[0].Remaining(r.States[0]), r.Verdict
			})
			synctest.Wait()
		}
		wg.Wait()
		assert.Equal(t, [][]int{{1}, {15}}, s.sent)
		assert.Equal(t, []domain.Tokens{9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0, 0, 0}, left)
		for i, v := range verdicts {
			assert.Equal(t, i < 10, v == domain.Allowed, "take %d", i)
		}
		stats := b.Stats("shard-0")
		assert.EqualValues(t, 16, stats.Groups, "each of them counts")
	})
}

// An item that waits for its next use keeps no other item alive, and no key of a client.
func TestBatcher_anIdleItemPointsToNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b := newLevelShard(t, time.Millisecond)
		limits := tenPerHour(t)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { assert.NoError(t, takeOf(endless, b, limits, "all").Err) })
			synctest.Wait()
		}
		wg.Wait()
		idle := 0
		for it, _ := b.idle.Get().(*item); it != nil; it, _ = b.idle.Get().(*item) {
			idle++
			g := it.groups[0]
			g.Result.States = nil
			assert.Equal(t, script.Group{}, g)
		}
		assert.Positive(t, idle)
	})
}

func TestBatcher_equalRequestsNeedTheSpaceOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newLevelShard(t, time.Millisecond)
		limits := tenPerHour(t)
		var wg sync.WaitGroup
		ask := func(keys ...string) {
			for _, key := range keys {
				wg.Go(func() { require.NoError(t, takeOf(endless, b, limits, key).Err) })
			}
			synctest.Wait()
		}
		ask("first")
		b.enough.Store(1000 * fullEnough) // no second batch beside the first
		for i := range 3 * script.MaxGroups {
			ask("all", "all", fmt.Sprintf("client-%d", i%100))
		}
		wg.Wait()
		require.Len(t, s.sent, 3)
		total := 0
		for _, sizes := range s.sent {
			assert.LessOrEqual(t, len(sizes), script.MaxGroups)
			for _, n := range sizes {
				total += n
			}
		}
		assert.Len(t, s.sent[1], 101)
		assert.Equal(t, 1+9*script.MaxGroups, total)
	})
}

// Two requests of each caller are one group and a share of another: as many callers fill a batch as if they had one each.
func TestBatcher_equalRequestsDoNotFillABatchEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b := newLevelShard(t, time.Millisecond)
		limits := tenPerHour(t)
		var wg sync.WaitGroup
		callers := 0
		ask := func(n int) {
			for range n {
				callers++
				reqs := []ports.TakeRequest{
					{Key: clientkey.BucketKey(fmt.Sprint(callers)), Limits: limits, Cost: 1}, {Key: "all", Limits: limits, Cost: 1},
				}
				wg.Go(func() { b.Do(endless, reqs, []int{0, 1}, make([]ports.TakeResult, 2)) })
			}
			synctest.Wait()
		}
		ask(1)
		ask(7) // wait for the next batch, of 14 requests in 8 groups
		time.Sleep(1500 * time.Microsecond)
		ask(13)
		assert.Equal(t, 1, b.Stats("").InFlight, "they are 14 groups")
		ask(1)
		assert.Equal(t, 2, b.Stats("").InFlight)
		wg.Wait()
	})
}

func TestBatcher_aCallerThatLeavesTakesNoneOfTheOthersAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newLevelShard(t, time.Millisecond)
		limits := tenPerHour(t)
		var wg sync.WaitGroup
		wg.Go(func() { takeOf(endless, b, limits, "first") })
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		results := make([]ports.TakeResult, 3)
		for i, ctx := range []context.Context{ctx, t.Context(), t.Context()} { // the first is the group's
			wg.Go(func() { results[i] = takeOf(ctx, b, limits, "all") })
			synctest.Wait()
		}
		time.Sleep(1500 * time.Microsecond)
		cancel() // their batch is under way
		wg.Wait()
		require.ErrorIs(t, results[0].Err, context.Canceled)
		require.ErrorIs(t, results[0].Err, failure.ErrMayHaveRun)
		for i, left := range []domain.Tokens{8, 7} {
			require.NoError(t, results[i+1].Err)
			assert.Equal(t, left, limits[0].Remaining(results[i+1].States[0]), "its take is spent")
		}
		assert.Equal(t, [][]int{{1}, {3}}, s.sent)
	})
}

func TestBatcher_theErrorOfAGroupIsThatOfEachRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newLevelShard(t, time.Millisecond)
		s.fail = errors.New("WRONGTYPE Operation against a key")
		limits := tenPerHour(t)
		reqs, slots := make([]ports.TakeRequest, 5), []int{0, 1, 2, 3, 4}
		for i := range reqs {
			reqs[i] = ports.TakeRequest{Key: "all", Limits: limits, Cost: 1}
		}
		results := make([]ports.TakeResult, 5)
		b.Do(endless, reqs, slots, results)
		assert.Equal(t, [][]int{{5}}, s.sent)
		for _, r := range results {
			require.ErrorIs(t, r.Err, ports.ErrCorrupt)
		}
	})
}

func TestBatcher_equalRequestsOfAWrongPeriodAreAskedOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newLevelShard(t, time.Millisecond)
		asked := 0
		b.server.Send = func(ctx context.Context, groups []*script.Group, now domain.Instant) error {
			if asked++; asked == 1 {
				return script.DecodeReply([]any{int64(5), int64(1000), int64(3)}, groups)
			}
			return s.send(ctx, groups, now)
		}
		limits := tenPerHour(t)
		reqs := []ports.TakeRequest{{Key: "all", Limits: limits, Cost: 4}, {Key: "all", Limits: limits, Cost: 4}, {Key: "all", Limits: limits, Cost: 4}}
		results := make([]ports.TakeResult, 3)
		b.Do(endless, reqs, []int{0, 1, 2}, results)
		for i, left := range []domain.Tokens{6, 2, 2} {
			require.NoError(t, results[i].Err)
			assert.Equal(t, left, limits[0].Remaining(results[i].States[0]))
		}
		assert.Equal(t, [][]int{{3}}, s.sent)
	})
}
