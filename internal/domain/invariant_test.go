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

// drawLimit draws buckets as people write them, and any others that can be counted.
func drawLimit() *rapid.Generator[domain.Limit] {
	pers := []time.Duration{us, 7 * us, ms, 13 * ms, 250 * ms, time.Second, 3 * time.Second, time.Minute, time.Hour, 24 * time.Hour}
	usual := rapid.Custom(func(t *rapid.T) domain.Limit {
		capacity := domain.Tokens(rapid.Int64Range(1, 20).Draw(t, "capacity"))
		refill := domain.Tokens(rapid.Int64Range(1, 12).Draw(t, "refill"))
		l, _ := domain.NewBucket("l", capacity, refill, rapid.SampledFrom(pers).Draw(t, "per"))
		return l
	})
	wild := rapid.Custom(func(t *rapid.T) domain.Limit {
		capacity := domain.Tokens(rapid.Int64Range(1, int64(domain.MaxTokens)).Draw(t, "capacity"))
		refill := domain.Tokens(rapid.Int64Range(1, int64(domain.MaxTokens)).Draw(t, "refill"))
		tick := rapid.SampledFrom([]time.Duration{us, ms}).Draw(t, "tick")
		per := tick * time.Duration(rapid.Int64Range(1, domain.MaxFill.Microseconds()/int64(tick/us)).Draw(t, "ticks"))
		l, _ := domain.NewBucket("l", capacity, refill, per)
		return l
	})
	return rapid.OneOf(usual, wild).Filter(func(l domain.Limit) bool { return !l.IsZero() })
}

// drawQuota draws quotas whose periods have three lengths, of a second to a day.
func drawQuota() *rapid.Generator[domain.Limit] {
	return rapid.Custom(func(t *rapid.T) domain.Limit {
		lengths := []time.Duration{time.Second, time.Minute, time.Hour, 7 * time.Hour, 24 * time.Hour}
		size := rapid.OneOf(rapid.Int64Range(1, 20), rapid.Int64Range(1, int64(domain.MaxTokens))).Draw(t, "quota")
		l, _ := domain.NewQuota("l", domain.Tokens(size), uneven{domain.Instant(rapid.SampledFrom(lengths).Draw(t, "length") / us)})
		return l
	})
}

// drawAny draws limits of every kind, one in three with a cost of its own.
func drawAny() *rapid.Generator[domain.Limit] {
	return rapid.Custom(func(t *rapid.T) domain.Limit {
		l := rapid.OneOf(drawLimit(), drawQuota()).Draw(t, "limit")
		if rapid.IntRange(0, 2).Draw(t, "own cost") == 0 {
			l, _ = l.WithCost(domain.Tokens(rapid.Int64Range(1, min(int64(l.Capacity()), 12)).Draw(t, "cost")))
		}
		return l
	})
}

// uneven are periods of three different lengths in turn. length is in microseconds, a multiple of 4.
type uneven struct{ length domain.Instant }

func (u uneven) At(now domain.Instant) (start, end, nextEnd domain.Instant) {
	k := now/u.length + 1
	for u.start(k) > now {
		k--
	}
	return u.start(k), u.start(k + 1), u.start(k + 2)
}

// start is 0, 5/4, 10/4, 3, 17/4 ... of the length.
func (u uneven) start(k domain.Instant) domain.Instant { return k*u.length + k%3*u.length/4 }

func (u uneven) String() string { return "uneven " + (time.Duration(u.length) * us).String() }

func drawOp(t *rapid.T) domain.Operation {
	op := rapid.SampledFrom([]domain.Op{
		domain.OpTake, domain.OpTake, domain.OpTake, domain.OpTake, domain.OpPeek, domain.OpRefund, domain.OpCharge, domain.OpUndo, domain.OpReset,
		domain.OpRelease, domain.OpSettle,
	}).Draw(t, "op")
	least := int64(0)
	if op == domain.OpRefund || op == domain.OpCharge || op == domain.OpUndo {
		least = 1
	}
	most := int64(domain.MaxCost)
	if op == domain.OpRelease || op == domain.OpSettle {
		least = -most
	}
	cost := rapid.OneOf(rapid.Int64Range(max(least, -12), 12), rapid.Int64Range(least, most)).Draw(t, "cost")
	return domain.Operation{Op: op, Cost: domain.Tokens(cost), MaxWait: drawMaxWait().Draw(t, "max wait")}
}

func drawMaxWait() *rapid.Generator[time.Duration] {
	return rapid.Custom(func(t *rapid.T) time.Duration {
		most := rapid.SampledFrom([]time.Duration{0, 3 * us, 2 * ms, time.Second, time.Hour, domain.MaxFill}).Draw(t, "most")
		return time.Duration(rapid.Int64Range(0, int64(most)).Draw(t, "max wait"))
	})
}

// drawMove draws how far the clock moves: about the next interesting instants of a limit, or anywhere, back too.
func drawMove(t *rapid.T, l *domain.Limit, b domain.State, now domain.Instant) time.Duration {
	b = l.Current(b, now)
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
	case 6: // across the start of a quota's period, or some time back
		if l.Quota() != nil {
			start, _, _ := l.Quota().Periods().At(now)
			return start.Add(time.Duration(near) * us).Sub(now)
		}
		return -time.Duration(rapid.Int64Range(0, int64(time.Hour/us)).Draw(t, "far back")) * us
	default:
		return time.Duration(rapid.Int64Range(0, int64(100*24*time.Hour/us)).Draw(t, "ahead")) * us
	}
}

// Operations of every kind, on one to three limits, that change now and then, under a clock that goes both ways.
func TestApply_agreesWithTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "limits")
		g := newGroup(rapid.SliceOfN(drawAny(), n, n).Draw(t, "limits")...)
		now, taken := t0, []domain.Instant{0}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			if rapid.IntRange(0, 15).Draw(t, "change") == 0 {
				i := rapid.IntRange(0, n-1).Draw(t, "changed")
				before := g.limits[i].Kind()
				if g.limits[i] = drawAny().Draw(t, "to"); g.limits[i].Kind() != before { // stores keep the kinds apart
					g.stored[i] = domain.State{}
				}
			}
			now = max(1, now.Add(drawMove(t, &g.limits[0], g.stored[0], now)))
			op := drawOp(t)
			op.TakenAt = rapid.SampledFrom(taken).Draw(t, "taken at")
			requireAsModel(t, g, op, now)
			taken = append(taken, now)
		}
	})
}

// requireAsModel applies op to the group and to its model, and compares the answer and the state.
// A release is of a permit that the group holds for it.
func requireAsModel(t require.TestingT, g *group, op domain.Operation, now domain.Instant) {
	models := make(modelGroup, len(g.limits))
	for i := range g.limits {
		models[i] = newModel(&g.limits[i]).load(g.stored[i])
	}
	what := fmt.Sprintf("%s %d within %s, of %d, at %d of %v under %v", op.Op, op.Cost, op.MaxWait, op.TakenAt, now, g.stored, g.limits)
	wantVerdict, after, wantWrite := models.apply(op, now)
	verdict, buckets, write := g.applyHeld(op, now)
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
func TestApply_keepsTheLimitInEveryWindow(t *testing.T) {
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
				fell := int64(before.bucket().Amount - buckets[0].Amount)
				spent = append(spent, spending{elapsed, big.NewRat(fell, int64(l.TokenBucket().TokenCredits()))})
			}
		}
		requireInvariant(t, &l, spent)
	})
}

func requireInvariant(t require.TestingT, l *domain.Limit, spent []spending) {
	for from := range spent {
		admitted := new(big.Rat)
		for to := from; to < len(spent); to++ {
			admitted.Add(admitted, spent[to].tokens)
			bound := boundOf(l, spent[to].elapsed-spent[from].elapsed+l.TokenBucket().TickMicros()-1)
			require.LessOrEqual(t, admitted.Cmp(bound), 0,
				"%s: %s admitted, bound %s, steps %d to %d of %v", l.String(), admitted, bound, from, to, spent)
		}
	}
}

// The check must find one token too many, else it proves nothing.
func TestInvariant_findsOneTokenTooMany(t *testing.T) {
	l := mustLimit(t, "5/s", 3)
	exact := []spending{{0, whole(3)}, {200_000, whole(1)}, {1_000_000, whole(3)}, {1_000_000, whole(-1)}, {1_000_000, whole(1)}}
	requireInvariant(t, &l, exact)
	early := slices.Clone(exact)
	early[1].elapsed--
	for _, tooMany := range [][]spending{early, append(slices.Clone(exact), spending{1_199_999, whole(1)}), {{0, whole(4)}}} {
		var seen recorder
		requireInvariant(&seen, &l, tooMany)
		require.True(t, seen.failed, "%v", tooMany)
	}
}

// recorder is a require.TestingT that notes a failure and goes on.
type recorder struct{ failed bool }

func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) FailNow()              {}

func TestRefillTo_conversionAgreesWithTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit().Draw(t, "limit")
		top := int64(domain.MaxCredits)
		b := domain.State{
			Amount:       domain.Credits(rapid.Int64Range(-top, top).Draw(t, "credits")),
			At:           t0,
			TokenCredits: domain.Credits(rapid.Int64Range(1, top).Draw(t, "p")),
		}
		require.Equal(t, newModel(&l).load(b).seen(t0).bucket(), l.Current(b, t0))
	})
}
