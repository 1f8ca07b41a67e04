package domain_test

import (
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// drawLimit draws limits as people write them, and any others that can be counted.
func drawLimit() *rapid.Generator[domain.Limit] {
	pers := []time.Duration{us, 7 * us, ms, 13 * ms, 250 * ms, time.Second, 3 * time.Second, time.Minute, time.Hour, 24 * time.Hour}
	usual := rapid.Custom(func(t *rapid.T) domain.Limit {
		capacity := domain.Tokens(rapid.Int64Range(1, 20).Draw(t, "capacity"))
		refill := domain.Tokens(rapid.Int64Range(1, 12).Draw(t, "refill"))
		l, _ := domain.NewLimit("l", capacity, refill, rapid.SampledFrom(pers).Draw(t, "per"))
		return l
	})
	wild := rapid.Custom(func(t *rapid.T) domain.Limit {
		capacity := domain.Tokens(rapid.Int64Range(1, int64(domain.MaxTokens)).Draw(t, "capacity"))
		refill := domain.Tokens(rapid.Int64Range(1, int64(domain.MaxTokens)).Draw(t, "refill"))
		tick := rapid.SampledFrom([]time.Duration{us, ms}).Draw(t, "tick")
		per := tick * time.Duration(rapid.Int64Range(1, domain.MaxFill.Microseconds()/int64(tick/us)).Draw(t, "ticks"))
		l, _ := domain.NewLimit("l", capacity, refill, per)
		return l
	})
	return rapid.OneOf(usual, wild).Filter(func(l domain.Limit) bool { return !l.IsZero() })
}

func drawOp(t *rapid.T) (domain.Op, domain.Tokens) {
	op := rapid.SampledFrom([]domain.Op{
		domain.OpTake, domain.OpTake, domain.OpTake, domain.OpTake, domain.OpPeek, domain.OpRefund, domain.OpCharge, domain.OpReset,
	}).Draw(t, "op")
	least := int64(0)
	if op == domain.OpRefund || op == domain.OpCharge {
		least = 1
	}
	cost := rapid.OneOf(rapid.Int64Range(least, 12), rapid.Int64Range(least, int64(domain.MaxCost))).Draw(t, "cost")
	return op, domain.Tokens(cost)
}

// drawMove draws how far the clock moves: about the next interesting instants of a bucket, or anywhere, back too.
func drawMove(t *rapid.T, l *domain.Limit, b domain.Bucket, now domain.Instant) time.Duration {
	b = l.Seen(b, now)
	near := rapid.Int64Range(-2, 2).Draw(t, "near")
	switch rapid.IntRange(0, 9).Draw(t, "move") {
	case 0, 1:
		return 0
	case 2, 3:
		return max(0, l.NextToken(b, now)+time.Duration(near)*us)
	case 4:
		return max(0, l.ResetAfter(b, now)+time.Duration(near)*us)
	case 5:
		return -time.Duration(rapid.Int64Range(0, int64(10*time.Second/us)).Draw(t, "back")) * us
	default:
		return time.Duration(rapid.Int64Range(0, int64(100*24*time.Hour/us)).Draw(t, "ahead")) * us
	}
}

// Operations of every kind, on one to three limits, that change now and then, under a clock that goes both ways.
func TestApply_agreesWithTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "limits")
		g := newGroup(rapid.SliceOfN(drawLimit(), n, n).Draw(t, "limits")...)
		now := t0
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			if rapid.IntRange(0, 15).Draw(t, "change") == 0 {
				g.limits = rapid.SliceOfN(drawLimit(), n, n).Draw(t, "changed")
			}
			now = max(1, now.Add(drawMove(t, &g.limits[0], g.stored[0], now)))
			op, cost := drawOp(t)
			requireAsModel(t, g, op, cost, now)
		}
	})
}

// requireAsModel applies op to the group and to its model, and compares the answer and the state.
func requireAsModel(t require.TestingT, g *group, op domain.Op, cost domain.Tokens, now domain.Instant) {
	models := make(modelGroup, len(g.limits))
	for i := range g.limits {
		models[i] = newModel(&g.limits[i]).load(g.stored[i])
	}
	what := fmt.Sprintf("%s %d at %d of %v under %v", op, cost, now, g.stored, g.limits)
	wantVerdict, after, wantWrite := models.apply(op, cost, now)
	verdict, buckets, write := g.apply(op, cost, now)
	require.Equal(t, wantVerdict, verdict, what)
	require.Equal(t, wantWrite, write, what)
	require.Equal(t, after.buckets(), buckets, what)
	for i := range g.limits {
		require.Equal(t, floorRat(after[i].level).Int64(), int64(g.limits[i].Remaining(buckets[i])), what)
	}
}

// spending is what happened to a bucket at an instant of a clock that never goes back: the sum of all its moves ahead.
type spending struct {
	elapsed int64 // microseconds
	tokens  *big.Rat
}

func whole(tokens domain.Tokens) *big.Rat { return big.NewRat(int64(tokens), 1) }

// For any window: admitted - refunded <= capacity + refill * elapsed / per, elapsed in whole ticks, rounded up. And a
// denial only where the tokens were not there, by the model.
func TestLaw_holdsInEveryWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit().Draw(t, "limit")
		g := newGroup(l)
		now, elapsed := t0, int64(0)
		var spent []spending
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			move := drawMove(t, &l, g.stored[0], now)
			now, elapsed = now.Add(move), elapsed+max(0, move.Microseconds())
			op := rapid.SampledFrom([]domain.Op{domain.OpTake, domain.OpTake, domain.OpTake, domain.OpRefund}).Draw(t, "op")
			cost := domain.Tokens(rapid.Int64Range(1, min(int64(l.Capacity()), int64(domain.MaxCost))).Draw(t, "cost"))
			before := newModel(&l).load(g.stored[0]).seen(now)
			verdict, buckets, _ := g.apply(op, cost, now)
			switch {
			case verdict == domain.Denied:
				require.Negative(t, before.level.Cmp(big.NewRat(int64(cost), 1)), "denied %d of %s", cost, before.level)
			case op == domain.OpTake:
				spent = append(spent, spending{elapsed, whole(cost)})
			default:
				// What a full bucket did not take back must not excuse a take: only what rose counts.
				fell := int64(before.bucket().Credits - buckets[0].Credits)
				spent = append(spent, spending{elapsed, big.NewRat(fell, int64(l.TokenCredits()))})
			}
		}
		requireLaw(t, &l, spent)
	})
}

func requireLaw(t require.TestingT, l *domain.Limit, spent []spending) {
	refill, per := l.Rate()
	for from := range spent {
		admitted := new(big.Rat)
		for to := from; to < len(spent); to++ {
			admitted.Add(admitted, spent[to].tokens)
			ticks := (spent[to].elapsed - spent[from].elapsed + l.TickMicros() - 1) / l.TickMicros()
			bound := big.NewRat(int64(refill), int64(per/us))
			bound.Mul(bound, big.NewRat(ticks*l.TickMicros(), 1))
			bound.Add(bound, big.NewRat(int64(l.Capacity()), 1))
			require.LessOrEqual(t, admitted.Cmp(bound), 0,
				"%s: %s admitted, bound %s, steps %d to %d of %v", l.String(), admitted, bound, from, to, spent)
		}
	}
}

// A law that nothing can break proves nothing: an over-admission by one token must be seen.
func TestLaw_seesATokenTooMany(t *testing.T) {
	l := mustLimit(t, "5/s", 3)
	exact := []spending{{0, whole(3)}, {200_000, whole(1)}, {1_000_000, whole(3)}, {1_000_000, whole(-1)}, {1_000_000, whole(1)}}
	requireLaw(t, &l, exact)
	early := slices.Clone(exact)
	early[1].elapsed--
	for _, tooMany := range [][]spending{early, append(slices.Clone(exact), spending{1_199_999, whole(1)}), {{0, whole(4)}}} {
		var seen recorder
		requireLaw(&seen, &l, tooMany)
		require.True(t, seen.failed, "%v", tooMany)
	}
}

// recorder is a require.TestingT that notes a failure and goes on.
type recorder struct{ failed bool }

func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) FailNow()              {}

func TestSeen_conversionAgreesWithTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit().Draw(t, "limit")
		top := int64(domain.MaxCredits)
		b := domain.Bucket{
			Credits:      domain.Credits(rapid.Int64Range(-top, top).Draw(t, "credits")),
			At:           t0,
			TokenCredits: domain.Credits(rapid.Int64Range(1, top).Draw(t, "p")),
		}
		require.Equal(t, newModel(&l).load(b).seen(t0).bucket(), l.Seen(b, t0))
	})
}
