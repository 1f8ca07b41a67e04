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
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/test/measure"
)

var histories = flag.Int("histories", 1000, "histories that are checked for linearizability")

// call is a request of a history, reply is its answer.
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

// state is a bucket and the time of the last decision.
type state struct {
	bucket domain.State
	now    domain.Instant
}

// bucketModel is one bucket whose operations run one after the other, by a clock that does not go back.
var bucketModel = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(s, in, out any) (bool, any) {
		before, c, r := s.(state), in.(call), out.(reply)
		if r.now < before.now {
			return false, s
		}
		buckets := []domain.State{before.bucket}
		verdict, write := domain.Apply(domain.Operation{Op: c.op, Cost: c.cost}, []domain.Limit{*c.limit}, buckets, nil, r.now)
		after := state{before.bucket, r.now}
		if write {
			after.bucket = buckets[0]
		}
		return verdict == r.verdict && buckets[0].Amount == r.credits, after
	},
}

// TestLinearizable sends requests for the same buckets from many goroutines at once, without faults. Their answers must
// be those of some sequential order that fits the times of requests and answers.
func TestLinearizable(t *testing.T) {
	const together = 50 // histories at a time
	f := startFleet(t, fleetConfig{shards: 3, direct: true, adapt: longTimeout})
	seed := rand.Uint64()
	limits := []domain.Limit{newLimit(t, "burst", 8, 400, time.Second), newQuota(t, "short", 8, "1s")}
	bad := 0
	for done := 0; done < *histories; done += together {
		var wg sync.WaitGroup
		recorded := make([]*history, together)
		for i := range recorded {
			recorded[i] = &history{key: bucketKey(hot, fmt.Sprintf("linear-%d", done+i)), limit: &limits[i%len(limits)]}
			for w := range 4 {
				wg.Go(func() { recorded[i].ask(t, f, w, rand.New(rand.NewPCG(seed, uint64(4*(done+i)+w)))) })
			}
		}
		wg.Wait()
		for _, h := range recorded {
			if porcupine.CheckOperationsTimeout(bucketModel, h.ops, waitTimeout) != porcupine.Ok {
				bad++
			}
		}
		require.False(t, t.Failed())
	}
	assert.Zero(t, bad, "histories that are not linearizable; the seed was %d", seed)
	t.Logf("%d histories, %d not linearizable", *histories, bad)
	measure.Keep(t, "linear", map[string]int{"histories": *histories, "bad": bad})
}

// history is the operations on one bucket.
type history struct {
	key   clientkey.BucketKey
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
			ClientId: worker, Input: c, Output: reply{r.Verdict, r.Now, r.States[0].Amount},
			Call: int64(start.Sub(epoch)), Return: int64(end.Sub(epoch)),
		})
		h.mu.Unlock()
	}
}

// epoch is the zero of the monotonic clock of the histories.
var epoch = time.Now()

// The model must reject wrong histories, or TestLinearizable would prove nothing.
func TestLinearizable_rejectsAnExtraToken(t *testing.T) {
	limit := newLimit(t, "burst", 2, 1, time.Hour)
	take := call{domain.OpTake, 1, &limit}
	left := func(n domain.Tokens) domain.Credits { return domain.Credits(n) * limit.TokenBucket().TokenCredits() }
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
	require.False(t, porcupine.CheckOperations(bucketModel, ops), "the second call returned before the first began")
}
