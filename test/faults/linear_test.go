//go:build faults

package faults

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/test/measure"
)

var histories = flag.Int("histories", 1000, "histories that are checked for linearizability")

// call is what a history asks, reply what it is answered.
type call struct {
	op    domain.Op
	cost  domain.Tokens
	limit *domain.Limit
}

type reply struct {
	verdict domain.Verdict
	now     domain.Instant
	credits domain.Credits
}

// state is a bucket, and the latest time that was seen of the store's clock.
type state struct {
	bucket domain.Bucket
	now    domain.Instant
}

// bucketModel is one bucket, decided one operation after the other by a clock that does not go back.
var bucketModel = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(s, in, out any) (bool, any) {
		before, c, r := s.(state), in.(call), out.(reply)
		if r.now < before.now {
			return false, s
		}
		buckets := []domain.Bucket{before.bucket}
		verdict, write := domain.Apply(c.op, c.cost, []domain.Limit{*c.limit}, buckets, r.now)
		after := state{before.bucket, r.now}
		if write {
			after.bucket = buckets[0]
		}
		return verdict == r.verdict && buckets[0].Credits == r.credits, after
	},
}

// TestLinearizable asks for the same buckets from many goroutines at once, without faults: what they are answered must
// be what one after the other would have been, in an order that fits when each was asked and answered.
func TestLinearizable(t *testing.T) {
	const together = 50 // histories at a time
	f := startFleet(t, fleetConfig{shards: 3, direct: true, adapt: patient})
	seed := rand.Uint64()
	limit := newLimit(t, "burst", 8, 400, time.Second)
	bad := 0
	for done := 0; done < *histories; done += together {
		var wg sync.WaitGroup
		recorded := make([]*history, together)
		for i := range recorded {
			recorded[i] = &history{key: bucketKey(hot, fmt.Sprintf("linear-%d", done+i)), limit: &limit}
			for w := range 4 {
				wg.Go(func() { recorded[i].ask(t, f, w, rand.New(rand.NewPCG(seed, uint64(4*(done+i)+w)))) })
			}
		}
		wg.Wait()
		for _, h := range recorded {
			if porcupine.CheckOperationsTimeout(bucketModel, h.ops, patience) != porcupine.Ok {
				bad++
			}
		}
		require.False(t, t.Failed())
	}
	assert.Zero(t, bad, "histories that are not linearizable; the seed was %d", seed)
	t.Logf("%d histories, %d not linearizable", *histories, bad)
	measure.Keep(t, "linear", map[string]int{"histories": *histories, "bad": bad})
}

// history is what happened to one bucket.
type history struct {
	key   domain.BucketKey
	limit *domain.Limit
	mu    sync.Mutex
	ops   []porcupine.Operation
}

func (h *history) ask(t *testing.T, f *fleet, worker int, rnd *rand.Rand) {
	for range 6 {
		c := call{op: domain.OpTake, cost: 1 + domain.Tokens(rnd.IntN(3)), limit: h.limit}
		if rnd.IntN(8) == 0 {
			c.op = [...]domain.Op{domain.OpPeek, domain.OpRefund, domain.OpCharge}[rnd.IntN(3)]
		}
		start := time.Now()
		r := ports.Take(t.Context(), f.store, ports.TakeRequest{Op: c.op, Key: h.key, Limits: []domain.Limit{*h.limit}, Cost: c.cost})
		end := time.Now()
		if !assert.NoError(t, r.Err) {
			return
		}
		h.mu.Lock()
		h.ops = append(h.ops, porcupine.Operation{
			ClientId: worker, Input: c, Output: reply{r.Verdict, r.Now, r.Buckets[0].Credits},
			Call: int64(start.Sub(epoch)), Return: int64(end.Sub(epoch)),
		})
		h.mu.Unlock()
	}
}

// epoch is the zero of the histories' clock, which is monotonic.
var epoch = time.Now()

// A checker that nothing can fail proves nothing.
func TestLinearizable_seesATokenThatComesFromNowhere(t *testing.T) {
	limit := newLimit(t, "burst", 2, 1, time.Hour)
	take := call{domain.OpTake, 1, &limit}
	left := func(n domain.Tokens) domain.Credits { return domain.Credits(n) * limit.TokenCredits() }
	ops := []porcupine.Operation{
		{Input: take, Output: reply{domain.Allowed, 100, left(1)}, Call: 1, Return: 4},
		{Input: take, Output: reply{domain.Allowed, 100, left(0)}, Call: 2, Return: 3},
	}
	require.True(t, porcupine.CheckOperations(bucketModel, ops))
	ops[1].Output = reply{domain.Allowed, 100, left(1)}
	require.False(t, porcupine.CheckOperations(bucketModel, ops))
	ops[1].Output = reply{domain.Allowed, 100, left(0)}
	ops[1].Call, ops[1].Return = 5, 6
	require.True(t, porcupine.CheckOperations(bucketModel, ops))
	ops[0].Call, ops[0].Return = 7, 8
	require.False(t, porcupine.CheckOperations(bucketModel, ops), "answered before the other was asked")
}
