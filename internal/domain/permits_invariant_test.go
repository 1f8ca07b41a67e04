package domain_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// holders is a concurrency limit written a second time: who holds a permit, and until when.
type holders map[string]domain.Instant

func (h holders) expire(now domain.Instant) {
	for id, expires := range h {
		if expires <= now {
			delete(h, id)
		}
	}
}

func (h holders) state(now domain.Instant) domain.State {
	s := domain.State{Amount: domain.Credits(len(h)), At: now, TokenCredits: 1}
	for _, expires := range h {
		if s.At == now || expires < s.At {
			s.At = expires
		}
	}
	return s
}

// drawHolders draws one or two concurrency limits, and other limits beside them.
func drawHolders(t *rapid.T) *group {
	var limits []domain.Limit
	for range rapid.IntRange(1, 2).Draw(t, "limits") {
		n := domain.Tokens(rapid.Int64Range(1, 4).Draw(t, "permits"))
		lease := rapid.SampledFrom([]time.Duration{time.Second, time.Second + us, time.Minute}).Draw(t, "lease")
		l, _ := domain.NewConcurrency("f", n, lease)
		limits = append(limits, l)
	}
	return newGroup(append(limits, rapid.SliceOfN(drawAny(), 0, 2).Draw(t, "others")...)...)
}

// drawPermit draws the ID of a new permit, or one that was used before.
func drawPermit(t *rapid.T, op domain.Op, step int) string {
	if op != domain.OpTake && step > 0 {
		step = max(0, step-rapid.IntRange(0, 12).Draw(t, "which"))
	}
	return fmt.Sprint("p", step)
}

// Never are more permits held than the limit has, and every answer is that of the model: takes, releases, undoings and
// renewals, on up to two concurrency limits with other limits beside them, under a clock that goes both ways.
func TestApply_neverGrantsMorePermitsThanTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawHolders(t)
		model := make([]holders, len(g.limits))
		for i := range model {
			model[i] = holders{}
		}
		now := t0
		for step := range rapid.IntRange(1, 80).Draw(t, "steps") {
			now = now.Add(drawHolderMove(t, g, now))
			op := drawHolderOp(t, step)
			want := wantOfHolders(g, model, op, now)
			verdict, states, _ := g.do(op, now)
			if op.Op != domain.OpCharge { // of which the other limits may refuse the debt
				require.Equal(t, want, verdict, "%+v under %v", op, g.limits)
			}
			for i := range g.limits {
				if g.permits[i] == nil {
					continue
				}
				require.Equal(t, model[i].state(now), states[i], "%+v", op)
				require.LessOrEqual(t, len(model[i]), int(g.limits[i].Capacity()))
				require.Len(t, g.permits[i].List(nil), len(model[i]))
			}
		}
	})
}

// drawHolderMove draws how far the clock moves: to about the time at which a permit expires, ahead or back.
func drawHolderMove(t *rapid.T, g *group, now domain.Instant) time.Duration {
	switch rapid.IntRange(0, 5).Draw(t, "move") {
	case 0, 1:
		return time.Duration(rapid.Int64Range(0, int64(200*ms/us)).Draw(t, "ahead")) * us
	case 2, 3:
		if list := g.permits[0].List(nil); len(list) > 0 {
			p := rapid.SampledFrom(list).Draw(t, "permit")
			return p.Expires.Sub(now) + time.Duration(rapid.Int64Range(-1, 1).Draw(t, "near"))*us
		}
		return 0
	case 4:
		return -time.Duration(rapid.Int64Range(0, int64(2*time.Minute/us)).Draw(t, "back")) * us
	default:
		return 0
	}
}

func drawHolderOp(t *rapid.T, step int) domain.Operation {
	op := rapid.SampledFrom([]domain.Op{
		domain.OpTake, domain.OpTake, domain.OpTake, domain.OpTake, domain.OpRelease, domain.OpRelease, domain.OpRenew, domain.OpUndo,
		domain.OpPeek, domain.OpCharge, domain.OpRefund, domain.OpReset, domain.OpList,
	}).Draw(t, "op")
	return domain.Operation{
		Op: op, Cost: domain.Tokens(rapid.Int64Range(1, 3).Draw(t, "cost")), MaxWait: drawMaxWait().Draw(t, "max wait"),
		Permit: drawPermit(t, op, step),
	}
}

// wantOfHolders applies op to the models, and returns its verdict. Those of other limits are taken from package domain: other
// tests check them.
func wantOfHolders(g *group, model []holders, op domain.Operation, now domain.Instant) domain.Verdict {
	anyHeld, allHeld, pass, all := false, true, true, []int(nil)
	for i := range g.limits {
		if g.permits[i] == nil {
			pass = pass && g.limits[i].CanPayWithin(g.limits[i].Current(g.stored[i], now), op.Cost, op.MaxWait)
			continue
		}
		model[i].expire(now)
		_, held := model[i][op.Permit]
		anyHeld, allHeld, all = anyHeld || held, allHeld && held, append(all, i)
		pass = pass && len(model[i]) < int(g.limits[i].Capacity())
	}
	verdict := domain.Allowed
	for _, i := range all {
		expires := now.Add(g.limits[i].Concurrency().Lease())
		switch op.Op {
		case domain.OpTake:
			if verdict = domain.Denied; pass {
				verdict, model[i][op.Permit] = domain.Allowed, expires
			}
		case domain.OpRelease, domain.OpUndo:
			if delete(model[i], op.Permit); op.Op == domain.OpRelease && !anyHeld {
				verdict = domain.Denied
			}
		case domain.OpRenew:
			if verdict = domain.Denied; allHeld {
				verdict, model[i][op.Permit] = domain.Allowed, expires
			}
		default:
		}
	}
	return verdict
}
