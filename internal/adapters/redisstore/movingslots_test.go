package redisstore_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/cluster"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// A node that has only some of a client's keys refuses to decide, since it would find too few permits held. It is asked again
// until it has all of them, or none.
func permitsSurviveAMove(t *testing.T, c *redistest.Cluster) {
	s := newStore(t, clusterConfig(c.Addrs()...))
	held, l := concurrency(t, "held", 2, time.Hour), limit(t, "burst", "1/h", 10)
	nodes := primaries(t, c)
	from, to := nodes[0], nodes[1]
	alone, mixed := clientAt(c, from, "permits-", 0), clientAt(c, from, "permits-", 1)
	for _, each := range []struct {
		name   string
		limits []domain.Limit
	}{{alone, []domain.Limit{held}}, {mixed, []domain.Limit{l, held}}} {
		k := key(each.name)
		slot := cluster.Slot(string(k))
		again := func(when string) {
			t.Helper()
			r := ports.Take(t.Context(), s, withPermit("third", take(each.name, 1, each.limits...)))
			require.NoError(t, r.Err, when)
			assert.Equal(t, domain.Denied, r.Verdict, when)
		}
		for _, id := range []string{"first", "second"} {
			require.NoError(t, ports.Take(t.Context(), s, withPermit(id, take(each.name, 1, each.limits...))).Err)
		}
		c.OpenSlot(slot, to)
		again("all keys are where they were")
		if len(each.limits) > 1 {
			c.MoveKey(script.RedisKey(k), from, to)
			refusedThenAsked(t, c, s, each.name, slot, from, to, each.limits)
		}
		c.MoveKeys(slot, from, to)
		again("all keys have moved")
		c.CloseSlot(slot, to)
		again("the slot has moved")
		release := withPermit("first", take(each.name, 0, each.limits...))
		release.Op = domain.OpRelease
		assert.Equal(t, domain.Allowed, ports.Take(t.Context(), s, release).Verdict)
		c.AwaitWhole() // the slots stay there: nodes that have just given a slot may not agree when they get it back
	}
}

// While a slot moves, its node refuses commands on keys that do not exist, so on one that the script has just emptied.
func keysEmptyWhileTheirSlotMoves(t *testing.T, c *redistest.Cluster) {
	s := newStore(t, clusterConfig(c.Addrs()...))
	held, also, burst := concurrency(t, "held", 2, time.Hour), concurrency(t, "also", 3, time.Hour), limit(t, "burst", "1/h", 10)
	nodes := primaries(t, c)
	from, to := nodes[0], nodes[1]
	op := func(op domain.Op, cost domain.Tokens, limits ...domain.Limit) ports.TakeRequest {
		req := withPermit("first", take("", cost, limits...))
		req.Op = op
		return req
	}
	reset, release, undo, peek := op(domain.OpReset, 0, burst), op(domain.OpRelease, 0, held), op(domain.OpUndo, 1, held), op(domain.OpPeek, 0, held)
	second := withPermit("second", take("", 1, held))
	for i, each := range []struct {
		name    string
		expired bool                // whether the permit that was taken before has expired
		reqs    []ports.TakeRequest // after a take of 1 by the limits of the first
		left    [][]domain.Tokens   // after each
	}{
		{"the last permit is released", false, []ports.TakeRequest{release}, [][]domain.Tokens{{2}}},
		{"the last permit is undone", false, []ports.TakeRequest{undo}, [][]domain.Tokens{{2}}},
		{"the last permit is released, and another is taken", false, []ports.TakeRequest{release, second, peek}, [][]domain.Tokens{{2}, {1}, {1}}},
		{"all permits have expired", true, []ports.TakeRequest{second}, [][]domain.Tokens{{1}}},
		{"the bucket is reset", false, []ports.TakeRequest{reset}, [][]domain.Tokens{{10}}},
		{"the bucket is reset, and taken from", false, []ports.TakeRequest{reset, take("", 4, burst)}, [][]domain.Tokens{{10}, {6}}},
		{"three keys: a release charges more", false, []ports.TakeRequest{op(domain.OpRelease, 3, burst, held, also)}, [][]domain.Tokens{{6, 2, 3}}},
		{"three keys: a take is undone", false, []ports.TakeRequest{op(domain.OpUndo, 1, burst, held, also)}, [][]domain.Tokens{{10, 2, 3}}},
	} {
		t.Run(each.name, func(t *testing.T) {
			client, limits := clientAt(c, from, "emptied-", i), each.reqs[0].Limits
			k := key(client)
			requireLeft := func(want []domain.Tokens, r ports.TakeResult) {
				t.Helper()
				require.NoError(t, r.Err)
				require.Equal(t, domain.Allowed, r.Verdict)
				for j := range limits {
					require.Equal(t, want[j], limits[j].Remaining(r.States[j]), limits[j].Name())
				}
			}
			require.NoError(t, ports.Take(t.Context(), s, withPermit("first", take(client, 1, limits...))).Err)
			if each.expired {
				set := script.RedisKey(k) + ":f:held"
				require.NoError(t, c.Client(from).ZAddXX(t.Context(), set, redis.Z{Score: 1, Member: "first"}).Err())
			}
			c.OpenSlot(cluster.Slot(string(k)), to)
			results := make([]ports.TakeResult, len(each.reqs))
			for j := range each.reqs {
				each.reqs[j].Key = k
			}
			s.TakeMany(t.Context(), each.reqs, results)
			for j, r := range results {
				requireLeft(each.left[j], r)
			}
			c.MoveKeys(cluster.Slot(string(k)), from, to)
			c.CloseSlot(cluster.Slot(string(k)), to)
			last := op(domain.OpPeek, 0, limits...)
			last.Key = k
			requireLeft(each.left[len(each.left)-1], ports.Take(t.Context(), s, last))
			c.AwaitWhole()
		})
	}
}

// refusedThenAsked is for a client whose Hash has moved, and whose permits have not: a take is refused while that lasts, and is
// decided once all keys have moved, if that is within its budget.
func refusedThenAsked(
	t *testing.T, c *redistest.Cluster, s *redisstore.Store, name string, slot int, from, to *redistest.Server, limits []domain.Limit,
) {
	t.Helper()
	refusals := func() int { return redirected(t, c.Client(from), "TRYAGAIN") + redirected(t, c.Client(to), "TRYAGAIN") }
	before := refusals()
	r := ports.Take(t.Context(), s, withPermit("third", take(name, 1, limits...)))
	require.ErrorIs(t, r.Err, ports.ErrUnavailable)
	require.ErrorContains(t, r.Err, "not carried out: TRYAGAIN")
	before += 7
	require.Equal(t, before, refusals(), "it is asked again six times")

	taken := make(chan ports.TakeResult)
	go func() { taken <- ports.Take(t.Context(), s, withPermit("third", take(name, 1, limits...))) }()
	require.Eventually(t, func() bool { return refusals() > before }, patient, time.Millisecond)
	c.MoveKeys(slot, from, to)
	r = <-taken
	require.NoError(t, r.Err)
	assert.Equal(t, domain.Denied, r.Verdict, "both permits are held")
}
