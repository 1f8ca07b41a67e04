package redisstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The random part of the differential test: limits, requests and clocks that reach the edges often.

func differKey(k int) domain.BucketKey { return key(fmt.Sprintf("differ-%d", k)) }

func (d *differential) oneIn(n int) bool { return d.rnd.IntN(n) == 0 }

// edgeSets are the edges that no seed may miss.
func edgeSets(t *testing.T) [][]domain.Limit {
	yearly := limit(t, "a", "7/8760h", 500) // ticks of 1 ms, and 100 years refill less than 2^52 credits
	huge, err := domain.NewLimit("a", 1, 1, time.Duration(domain.MaxCredits/2-1)*time.Microsecond)
	require.NoError(t, err)
	return [][]domain.Limit{{yearly}, {huge}}
}

// randomSet has 1 to 5 limits of different names. Names are few, so that sets share buckets whose limits differ.
func (d *differential) randomSet() []domain.Limit {
	names := []string{"a", "b", "c", "d", "e"}
	d.rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	n := 1
	if d.oneIn(3) {
		n = 1 + d.rnd.IntN(len(names))
	}
	limits := make([]domain.Limit, n)
	for i := range limits {
		limits[i] = d.randomLimit(names[i])
	}
	return limits
}

// randomLimit draws until a limit can be counted exactly; one in three is as near to 2^52 credits as it can be.
func (d *differential) randomLimit(name string) domain.Limit {
	pers := []time.Duration{
		time.Microsecond, 7 * time.Microsecond, time.Millisecond, 250 * time.Millisecond, time.Second, 7 * time.Second,
		time.Minute, time.Hour, 24 * time.Hour, 30 * 24 * time.Hour, 365 * 24 * time.Hour, 9_007_199_254_740_993 * time.Nanosecond,
	}
	for {
		capacity, refill := d.randomTokens(), d.randomTokens()
		per := pers[d.rnd.IntN(len(pers))].Truncate(time.Microsecond)
		switch d.rnd.IntN(6) {
		case 0:
			per = time.Duration(1+d.rnd.Int64N(4_000_000_000_000_000)) * time.Microsecond
		case 1: // with most capacities too long for ticks of a microsecond
			per = time.Duration(1+d.rnd.Int64N(3_000_000_000_000)) * time.Millisecond
		}
		if d.oneIn(3) { // p = per in microseconds, if refill has no factor in common with it
			capacity = max(1, min(domain.Tokens(domain.MaxCredits)/domain.Tokens(max(1, per.Microseconds())), domain.MaxTokens))
		}
		if l, err := domain.NewLimit(name, capacity, refill, per); err == nil {
			return l
		}
	}
}

func (d *differential) randomTokens() domain.Tokens {
	switch d.rnd.IntN(6) {
	case 0:
		return domain.MaxTokens - domain.Tokens(d.rnd.IntN(3))
	case 1:
		return 1 + domain.Tokens(d.rnd.Int64N(int64(domain.MaxTokens)))
	case 2:
		return 1 + domain.Tokens(d.rnd.Int64N(1<<d.rnd.IntN(40)))
	default:
		return 1 + domain.Tokens(d.rnd.IntN(20))
	}
}

func (d *differential) randomRequests() []ports.TakeRequest {
	n := redisstore.MaxGroups
	if d.oneIn(8) {
		n = 1 + d.rnd.IntN(redisstore.MaxGroups)
	}
	reqs := make([]ports.TakeRequest, n)
	for i := range reqs {
		k := d.rnd.IntN(differKeys)
		set := d.sets[k%len(d.sets)] // mostly a key keeps its limits
		if d.oneIn(10) {
			set = d.sets[d.rnd.IntN(len(d.sets))]
		}
		op := d.randomOp()
		reqs[i] = ports.TakeRequest{Op: op, Key: differKey(k), Limits: set, Cost: d.randomCost(op, set)}
	}
	return reqs
}

func (d *differential) randomOp() domain.Op {
	ops := [...]domain.Op{
		domain.OpTake, domain.OpTake, domain.OpTake, domain.OpTake, domain.OpTake, domain.OpTake,
		domain.OpPeek, domain.OpRefund, domain.OpCharge, domain.OpCharge,
	}
	if d.oneIn(30) {
		return domain.OpReset
	}
	return ops[d.rnd.IntN(len(ops))]
}

func (d *differential) randomCost(op domain.Op, set []domain.Limit) domain.Tokens {
	capacity := min(set[d.rnd.IntN(len(set))].Capacity(), domain.MaxCost)
	cost := domain.Tokens(0)
	switch d.rnd.IntN(10) {
	case 0:
		cost = domain.MaxCost - domain.Tokens(d.rnd.IntN(2))
	case 1:
		cost = capacity + domain.Tokens(d.rnd.IntN(3)) - 1
	case 2, 3, 4:
		cost = domain.Tokens(d.rnd.Int64N(int64(capacity) + 1))
	case 5, 6:
		cost = 1 + (capacity-1)/4
	default:
		cost = domain.Tokens(d.rnd.IntN(4))
	}
	if op == domain.OpRefund || op == domain.OpCharge {
		cost = max(cost, 1)
	}
	return max(0, min(cost, domain.MaxCost))
}

// moveClock moves the clock before a run: mostly a little forward, at times far, at times back. It stays between
// 2030 and 2050, in the future, so that the server, which knows the true time, never deletes a key by its own.
func (d *differential) moveClock() {
	before := d.now
	switch d.rnd.IntN(12) {
	case 0:
	case 1:
		d.now = d.now.Add(-time.Duration(d.rnd.Int64N(int64(time.Hour))))
	case 2:
		d.now = d.now.Add(time.Duration(d.rnd.Int64N(int64(200*24*time.Hour))) - 100*24*time.Hour)
	case 3:
		d.now = d.now.Add(time.Duration(d.rnd.Int64N(int64(24 * time.Hour))))
	case 4, 5:
		d.now = d.now.Add(time.Duration(d.rnd.IntN(20)) * time.Microsecond)
	default:
		d.now = d.now.Add(time.Duration(d.rnd.Int64N(int64(2 * time.Second))))
	}
	lowest := domain.InstantOf(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	highest := domain.InstantOf(time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC))
	d.now = max(lowest, min(d.now, highest))
	d.count("clock back", d.now < before)
}
