package invariant_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/test/invariant"
)

// Takes count at their decision + their wait. A report without a breach means that by that no window breaks the invariant, but
// for the microsecond to which the wait of a take at its start was rounded up. This test checks every window by itself, also
// after one wait was changed.
func TestChecker_countsTakesWhenTheirWaitEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		b, now := newBucket(l), int64(0)
		var history, served []invariant.Record
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			now += rapid.OneOf(rapid.Int64Range(0, 2), rapid.Int64Range(0, per(l))).Draw(t, "move")
			r := b.applyWithin(rapid.Int64Range(0, 9*per(l)).Draw(t, "max wait"), invariant.Take, rapid.Int64Range(1, 3).Draw(t, "cost"), now)
			if history = append(history, r); r.Verdict == invariant.Allowed {
				served = append(served, r)
			}
		}
		requireClean(t, replay(t, l, history, true))
		require.False(t, breaksAWindow(l, served), "%+v", served)
		if len(served) == 0 {
			return
		}
		changed := rapid.IntRange(0, len(served)-1).Draw(t, "changed")
		served[changed].WaitUS = max(0, served[changed].WaitUS+rapid.Int64Range(-3*per(l), 3*per(l)).Draw(t, "by"))
		if breaksAWindow(l, served) {
			require.Positive(t, replay(t, l, served, true).WrongWaits, "%+v", served)
		}
	})
}

// breaksAWindow reports whether takes that were all allowed break the invariant when they are served.
func breaksAWindow(l invariant.Limit, takes []invariant.Record) bool {
	for _, first := range takes {
		from := first.NowUS + first.WaitUS
		for _, last := range takes {
			to, admitted, rounded := last.NowUS+last.WaitUS, int64(0), int64(0)
			for _, r := range takes {
				at := r.NowUS + r.WaitUS
				if at >= from && at <= to {
					admitted += r.Cost * per(l)
				}
				if at == from {
					rounded = max(rounded, min(1, r.WaitUS))
				}
			}
			if to >= from && admitted > l.Capacity*per(l)+(to-from+rounded)*l.Refill {
				return true
			}
		}
	}
	return false
}

func TestChecker_findsEachBreachOfAWait(t *testing.T) {
	l := invariant.Limit{Capacity: 2, Refill: 1, Per: time.Second}
	const second = 1_000_000
	exact := func() []invariant.Record {
		b := newBucket(l)
		return []invariant.Record{
			b.apply(invariant.Take, 2, 0), b.applyWithin(second, invariant.Take, 1, 0), b.applyWithin(second, invariant.Take, 1, 1),
			b.applyWithin(2*second, invariant.Take, 1, 2), b.apply(invariant.Take, 1, 3*second),
		}
	}
	requireClean(t, replay(t, l, exact(), true))
	requireClean(t, replay(t, l, exact(), false))
	for name, c := range map[string]struct {
		change func([]invariant.Record)
		want   invariant.Report // by the levels; without them OverAdmitted and FalseDenials alone
	}{
		"a microsecond too short":         {func(r []invariant.Record) { r[1].WaitUS-- }, invariant.Report{OverAdmitted: 1, WrongWaits: 1}},
		"a microsecond too long":          {func(r []invariant.Record) { r[1].WaitUS++ }, invariant.Report{WrongWaits: 1}},
		"one that is not needed":          {func(r []invariant.Record) { r[4].WaitUS = 1 }, invariant.Report{WrongWaits: 1}},
		"none where one is needed":        {func(r []invariant.Record) { r[3].WaitUS = 0 }, invariant.Report{OverAdmitted: 2, WrongWaits: 1}},
		"denied what could be borrowed":   {func(r []invariant.Record) { r[2].WaitUS = 2*second - 1 }, invariant.Report{FalseDenials: 1}},
		"denied what could not, narrowly": {func(r []invariant.Record) { r[2].WaitUS = 2*second - 2 }, invariant.Report{}},
	} {
		t.Run(name, func(t *testing.T) {
			history := exact()
			c.change(history)
			got := replay(t, l, history, true)
			assert.Equal(t, c.want, invariant.Report{OverAdmitted: got.OverAdmitted, WrongWaits: got.WrongWaits, FalseDenials: got.FalseDenials})
			got = replay(t, l, history, false)
			assert.Equal(t, c.want.OverAdmitted, got.OverAdmitted)
			assert.Equal(t, c.want.FalseDenials, got.FalseDenials)
		})
	}
}
