package invariant_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/test/invariant"
)

// holders is a correct concurrency limit: who holds a permit, and until when. The tests compare the checker with it.
type holders struct {
	size  int
	lease int64 // microseconds
	held  map[string]int64
}

func newHolders(l invariant.Concurrency) *holders {
	return &holders{l.Size, l.Lease.Microseconds(), map[string]int64{}}
}

func (h *holders) apply(op invariant.PermitOp, id string, now int64) invariant.PermitRecord {
	for id, expires := range h.held {
		if expires <= now {
			delete(h.held, id)
		}
	}
	_, held := h.held[id]
	r := invariant.PermitRecord{NowUS: now, ID: id, Op: op, Verdict: invariant.Denied}
	switch {
	case op == invariant.Grant && len(h.held) < h.size, op == invariant.Renew && held:
		r.Verdict, h.held[id] = invariant.Allowed, now+h.lease
	case op == invariant.Release && held, op == invariant.Undo:
		r.Verdict = invariant.Allowed
		delete(h.held, id)
	}
	r.Held = len(h.held)
	return r
}

func drawConcurrency(t *rapid.T) invariant.Concurrency {
	return invariant.Concurrency{
		Size:  rapid.IntRange(1, 4).Draw(t, "permits"),
		Lease: time.Duration(rapid.Int64Range(1, 50).Draw(t, "lease")) * time.Microsecond,
	}
}

// drawPermitHistory returns random operations with the answers of a correct limit. With withLost some answers are lost, and some
// of those operations run later.
func drawPermitHistory(t *rapid.T, l invariant.Concurrency, minMove int64, withLost bool) []invariant.PermitRecord {
	h, now := newHolders(l), int64(1000)
	var history, late []invariant.PermitRecord
	for step := range rapid.IntRange(1, 80).Draw(t, "steps") {
		now += rapid.OneOf(rapid.Int64Range(minMove, 3), rapid.Int64Range(minMove, 30)).Draw(t, "move")
		op := rapid.SampledFrom([]invariant.PermitOp{
			invariant.Grant, invariant.Grant, invariant.Grant, invariant.Renew, invariant.Release, invariant.Undo, invariant.Count,
		}).Draw(t, "op")
		id := fmt.Sprint("p", step)
		if op != invariant.Grant {
			id = fmt.Sprint("p", step-rapid.IntRange(1, 9).Draw(t, "which"))
		}
		outcome := 0
		if withLost {
			outcome = rapid.IntRange(0, 7).Draw(t, "outcome")
		}
		lost := invariant.PermitRecord{NowUS: now, ID: id, Op: op, Verdict: invariant.Lost, Held: invariant.NoCount}
		switch {
		case outcome < 5:
			history = append(history, h.apply(op, id, now))
			continue
		case outcome == 6:
			h.apply(op, id, now)
		case outcome == 7:
			late = append(late, lost)
		}
		history = append(history, lost)
		if len(late) > 0 && rapid.Bool().Draw(t, "runs now") {
			now++
			h.apply(late[0].Op, late[0].ID, now)
			late = late[1:]
		}
	}
	return history
}

func replayPermits(t require.TestingT, l invariant.Concurrency, history []invariant.PermitRecord, counts bool) invariant.PermitReport {
	c, err := invariant.NewPermitChecker(l)
	require.NoError(t, err)
	history = slices.Clone(history)
	for i := range history {
		if !counts {
			history[i].Held = invariant.NoCount
		}
	}
	c.Replay(history)
	return c.Report()
}

func requireCleanPermits(t require.TestingT, r invariant.PermitReport) {
	require.Empty(t, r.First)
	require.Zero(t, r.OverGranted+r.FalseDenials+r.EndedEarly+r.EndedLate)
}

func TestPermitChecker_findsNoBreachInACorrectLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawConcurrency(t)
		history := drawPermitHistory(t, l, 0, false)
		requireCleanPermits(t, replayPermits(t, l, history, true))
		slices.Reverse(history) // records of one instant may come in any order
		requireCleanPermits(t, replayPermits(t, l, history, true))
	})
}

func TestPermitChecker_lostOperationsMayHaveRun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawConcurrency(t)
		history := drawPermitHistory(t, l, 0, true)
		requireCleanPermits(t, replayPermits(t, l, history, true))
	})
}

// Each story breaks one rule.
func TestPermitChecker_findsEachBreach(t *testing.T) {
	l := invariant.Concurrency{Size: 2, Lease: 100 * time.Microsecond}
	const grant, renew, release, undo, count = invariant.Grant, invariant.Renew, invariant.Release, invariant.Undo, invariant.Count
	type step struct {
		at      int64
		op      invariant.PermitOp
		id      string
		allowed bool
		held    int
	}
	for name, c := range map[string]struct {
		story []step
		want  invariant.PermitReport // by verdicts and counts
		less  invariant.PermitReport // by the verdicts alone
	}{
		"no breach": {story: []step{
			{0, grant, "a", true, 1},
			{1, grant, "b", true, 2},
			{2, grant, "c", false, 2},
			{50, renew, "a", true, 2},
			{101, grant, "c", true, 2},
			{149, release, "a", true, 1},
			{150, release, "a", false, 1},
			{150, undo, "c", true, 0},
			{151, count, "", true, 0},
		}},
		"a third permit": {
			[]step{{0, grant, "a", true, 1}, {1, grant, "b", true, 2}, {2, grant, "c", true, 3}},
			invariant.PermitReport{OverGranted: 1},
			invariant.PermitReport{OverGranted: 1},
		},
		"a third permit a microsecond before a lease ends": {
			[]step{{0, grant, "a", true, 1}, {1, grant, "b", true, 2}, {99, grant, "c", true, 2}},
			invariant.PermitReport{OverGranted: 1, EndedEarly: 1},
			invariant.PermitReport{OverGranted: 1},
		},
		"a renewal that did not count": {
			[]step{{0, grant, "a", true, 1}, {1, grant, "b", true, 2}, {90, renew, "a", true, 2}, {100, grant, "c", true, 2}},
			invariant.PermitReport{OverGranted: 1, EndedEarly: 1},
			invariant.PermitReport{OverGranted: 1},
		},
		"a denial while one permit was free": {
			[]step{{0, grant, "a", true, 1}, {1, grant, "b", false, 1}},
			invariant.PermitReport{FalseDenials: 1},
			invariant.PermitReport{FalseDenials: 1},
		},
		"a denial after a release": {
			[]step{{0, grant, "a", true, 1}, {0, grant, "b", true, 2}, {1, release, "a", true, 1}, {2, grant, "c", false, 1}},
			invariant.PermitReport{FalseDenials: 1},
			invariant.PermitReport{FalseDenials: 1},
		},
		"a denial when a lease had ended": {
			[]step{{0, grant, "a", true, 1}, {0, grant, "b", true, 2}, {100, grant, "c", false, 2}},
			invariant.PermitReport{FalseDenials: 1, EndedLate: 1},
			invariant.PermitReport{FalseDenials: 1},
		},
		"a permit that was forgotten, by its release": {
			[]step{{0, grant, "a", true, 1}, {99, release, "a", false, 0}},
			invariant.PermitReport{EndedEarly: 1},
			invariant.PermitReport{EndedEarly: 1},
		},
		"a permit that was forgotten, by its renewal": {
			[]step{{0, grant, "a", true, 1}, {99, renew, "a", false, 0}},
			invariant.PermitReport{EndedEarly: 1},
			invariant.PermitReport{EndedEarly: 1},
		},
		"a permit that was forgotten, by the count": {
			[]step{{0, grant, "a", true, 1}, {99, count, "", true, 0}}, invariant.PermitReport{EndedEarly: 1}, invariant.PermitReport{},
		},
		"released twice": {
			[]step{{0, grant, "a", true, 1}, {1, release, "a", true, 0}, {2, release, "a", true, 0}},
			invariant.PermitReport{EndedLate: 1},
			invariant.PermitReport{EndedLate: 1},
		},
		"released after its lease": {
			[]step{{0, grant, "a", true, 1}, {100, release, "a", true, 0}},
			invariant.PermitReport{EndedLate: 1},
			invariant.PermitReport{EndedLate: 1},
		},
		"renewed after its lease": {
			[]step{{0, grant, "a", true, 1}, {100, renew, "a", true, 1}},
			invariant.PermitReport{EndedLate: 1},
			invariant.PermitReport{EndedLate: 1},
		},
		"released after an undo": {
			[]step{{0, grant, "a", true, 1}, {1, undo, "a", true, 0}, {2, release, "a", true, 0}},
			invariant.PermitReport{EndedLate: 1},
			invariant.PermitReport{EndedLate: 1},
		},
		"a permit that was not freed": {
			[]step{{0, grant, "a", true, 1}, {1, release, "a", true, 1}}, invariant.PermitReport{EndedLate: 1}, invariant.PermitReport{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var history []invariant.PermitRecord
			for _, s := range c.story {
				r := invariant.PermitRecord{NowUS: s.at, ID: s.id, Op: s.op, Held: s.held}
				if s.allowed {
					r.Verdict = invariant.Allowed
				}
				history = append(history, r)
			}
			assert.Equal(t, c.want, breaches(replayPermits(t, l, history, true)))
			assert.Equal(t, c.less, breaches(replayPermits(t, l, history, false)))
		})
	}
}

// breaches returns the counts of breaches alone.
func breaches(r invariant.PermitReport) invariant.PermitReport {
	return invariant.PermitReport{OverGranted: r.OverGranted, FalseDenials: r.FalseDenials, EndedEarly: r.EndedEarly, EndedLate: r.EndedLate}
}

// One denial that is recorded as a grant, in any history, is found.
func TestPermitChecker_findsOnePermitTooMany(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawConcurrency(t)
		denials := func(history []invariant.PermitRecord) (all []int) {
			for i, r := range history {
				if r.Op == invariant.Grant && r.Verdict == invariant.Denied {
					all = append(all, i)
				}
			}
			return all
		}
		history := rapid.Custom(func(t *rapid.T) []invariant.PermitRecord { return drawPermitHistory(t, l, 1, false) }).
			Filter(func(history []invariant.PermitRecord) bool { return len(denials(history)) > 0 }).Draw(t, "history")
		history[rapid.SampledFrom(denials(history)).Draw(t, "denial")].Verdict = invariant.Allowed
		require.Positive(t, replayPermits(t, l, history, false).OverGranted, "%+v", history)
	})
}

func TestPermitChecker_ofOneInstant(t *testing.T) {
	l := invariant.Concurrency{Size: 1, Lease: time.Second}
	record := func(op invariant.PermitOp, id string, verdict invariant.Verdict) invariant.PermitRecord {
		return invariant.PermitRecord{NowUS: 5, ID: id, Op: op, Verdict: verdict, Held: invariant.NoCount}
	}
	before := record(invariant.Grant, "z", invariant.Allowed)
	before.NowUS = 4
	one := []invariant.PermitRecord{ // z ends, then x is granted and ends, then a is granted
		before, record(invariant.Grant, "a", invariant.Allowed), record(invariant.Release, "x", invariant.Denied),
		record(invariant.Grant, "b", invariant.Denied), record(invariant.Release, "x", invariant.Allowed),
		record(invariant.Renew, "x", invariant.Allowed), record(invariant.Grant, "x", invariant.Allowed), record(invariant.Release, "z", invariant.Allowed),
	}
	requireCleanPermits(t, replayPermits(t, l, one, true))
	requireCleanPermits(t, replayPermits(t, l, []invariant.PermitRecord{ // x may have ended before a was granted
		record(invariant.Grant, "a", invariant.Allowed), record(invariant.Grant, "x", invariant.Allowed), record(invariant.Release, "x", invariant.Lost),
	}, true))
	two := append(slices.Clone(one), record(invariant.Grant, "c", invariant.Allowed))
	assert.EqualValues(t, 1, replayPermits(t, l, two, true).OverGranted, "neither a nor c ends")
}

func TestPermitChecker_aLostRenewalMayHaveRun(t *testing.T) {
	l := invariant.Concurrency{Size: 1, Lease: 100 * time.Microsecond}
	requireCleanPermits(t, replayPermits(t, l, []invariant.PermitRecord{
		{NowUS: 1, ID: "a", Op: invariant.Grant, Verdict: invariant.Allowed, Held: 1},
		{NowUS: 2, ID: "a", Op: invariant.Renew, Verdict: invariant.Lost, Held: invariant.NoCount},
		{NowUS: 150, ID: "b", Op: invariant.Grant, Verdict: invariant.Denied, Held: 1},
		{NowUS: 151, ID: "a", Op: invariant.Release, Verdict: invariant.Allowed, Held: 0},
	}, true))
}

func TestPermitChecker_noneInFlightEndsTheAllowanceForLostOperations(t *testing.T) {
	l := invariant.Concurrency{Size: 1, Lease: 100 * time.Microsecond}
	for noneInFlight, want := range map[bool]int64{false: 0, true: 1} {
		c, err := invariant.NewPermitChecker(l)
		require.NoError(t, err)
		c.Replay([]invariant.PermitRecord{{NowUS: 1, ID: "a", Op: invariant.Grant, Verdict: invariant.Lost, Held: invariant.NoCount}})
		if noneInFlight {
			c.NoneInFlight(50)
		}
		c.Replay([]invariant.PermitRecord{{NowUS: 149, ID: "b", Op: invariant.Grant, Verdict: invariant.Denied, Held: 1}})
		requireCleanPermits(t, c.Report())
		c.Replay([]invariant.PermitRecord{{NowUS: 150, ID: "c", Op: invariant.Grant, Verdict: invariant.Denied, Held: invariant.NoCount}})
		assert.Equal(t, want, c.Report().FalseDenials, "the lost grant ran at 50 at the latest")
	}
}

// A stalled server may carry out a grant after the release of its permit.
func TestPermitChecker_aLostGrantMayRunAfterItsRelease(t *testing.T) {
	l := invariant.Concurrency{Size: 1, Lease: 100 * time.Microsecond}
	requireCleanPermits(t, replayPermits(t, l, []invariant.PermitRecord{
		{NowUS: 1, ID: "a", Op: invariant.Grant, Verdict: invariant.Lost, Held: invariant.NoCount},
		{NowUS: 2, ID: "a", Op: invariant.Release, Verdict: invariant.Denied, Held: 0},
		{NowUS: 4, ID: "b", Op: invariant.Grant, Verdict: invariant.Denied, Held: 1},
		{NowUS: 5, ID: "a", Op: invariant.Release, Verdict: invariant.Allowed, Held: 0},
		{NowUS: 6, ID: "b", Op: invariant.Grant, Verdict: invariant.Allowed, Held: 1},
	}, true))
}

func TestPermitChecker_orderedRecordsAllowAClockThatGoesBack(t *testing.T) {
	for _, kept := range []bool{false, true} { // a permit that expired before the clock went back
		c, err := invariant.NewPermitChecker(invariant.Concurrency{Size: 1, Lease: 100 * time.Microsecond})
		require.NoError(t, err)
		c.Ordered = true
		verdict := map[bool]invariant.Verdict{true: invariant.Allowed}[kept]
		c.Replay([]invariant.PermitRecord{
			{NowUS: 1000, ID: "a", Op: invariant.Grant, Verdict: invariant.Allowed, Held: 1},
			{NowUS: 10, ID: "b", Op: invariant.Grant, Verdict: invariant.Denied, Held: 1},
			{NowUS: 1100, ID: "x", Op: invariant.Count, Verdict: invariant.Allowed, Held: 0},
			{NowUS: 1050, ID: "a", Op: invariant.Release, Verdict: verdict, Held: 0},
			{NowUS: 1050, ID: "c", Op: invariant.Grant, Verdict: invariant.Allowed, Held: 1},
		})
		requireCleanPermits(t, c.Report())
		c.Replay([]invariant.PermitRecord{{NowUS: 20, ID: "d", Op: invariant.Grant, Verdict: invariant.Allowed, Held: 1}})
		assert.EqualValues(t, 1, c.Report().OverGranted)
	}
}

func TestPermitChecker_countsWhatTheStoreMustHaveForgotten(t *testing.T) {
	c, err := invariant.NewPermitChecker(invariant.Concurrency{Size: 2, Lease: 100 * time.Microsecond})
	require.NoError(t, err)
	for i, step := range []struct {
		at      int64
		op      invariant.PermitOp
		id      string
		verdict invariant.Verdict
		gained  int64
	}{
		{0, invariant.Grant, "a", invariant.Allowed, 0},
		{0, invariant.Grant, "b", invariant.Allowed, 0},
		{1, invariant.Grant, "c", invariant.Allowed, 1},
		{2, invariant.Grant, "d", invariant.Allowed, 2},
		{3, invariant.Release, "c", invariant.Allowed, 2},
		{4, invariant.Grant, "e", invariant.Allowed, 2},   // in the place of c
		{5, invariant.Release, "a", invariant.Denied, 2},  // it was one of the two
		{6, invariant.Grant, "f", invariant.Allowed, 3},   // b is the other, so d or e was forgotten, too
		{150, invariant.Grant, "g", invariant.Allowed, 3}, // all have expired
		{150, invariant.Grant, "h", invariant.Allowed, 3},
		{151, invariant.Grant, "i", invariant.Allowed, 4},
	} {
		c.Replay([]invariant.PermitRecord{{NowUS: step.at, ID: step.id, Op: step.op, Verdict: step.verdict, Held: invariant.NoCount}})
		require.Equal(t, step.gained, c.Report().Gained, "step %d", i)
	}
}

// What is gained is never more than what was lost.
func TestPermitChecker_gainsAreBoundedByWhatWasForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawConcurrency(t)
		h, now, forgotten := newHolders(l), int64(1000), int64(0)
		var history []invariant.PermitRecord
		for step := range rapid.IntRange(1, 80).Draw(t, "steps") {
			now += rapid.Int64Range(1, 10).Draw(t, "move")
			op, id := invariant.Grant, fmt.Sprint("p", step)
			if rapid.Bool().Draw(t, "of an older") {
				op = rapid.SampledFrom([]invariant.PermitOp{invariant.Renew, invariant.Release}).Draw(t, "op")
				id = fmt.Sprint("p", step-rapid.IntRange(1, 9).Draw(t, "which"))
			}
			if rapid.IntRange(0, 9).Draw(t, "loss") == 0 {
				forgotten += int64(len(h.held))
				clear(h.held)
			}
			history = append(history, h.apply(op, id, now))
		}
		require.LessOrEqual(t, replayPermits(t, l, history, false).Gained, forgotten)
	})
}

func TestNewPermitChecker_refusesLimitsThatItCannotCount(t *testing.T) {
	for _, l := range []invariant.Concurrency{{Size: 0, Lease: time.Second}, {Size: 1}, {Size: 1, Lease: -time.Second}} {
		_, err := invariant.NewPermitChecker(l)
		assert.Error(t, err, "%+v", l)
	}
}

func TestPermitReport_add(t *testing.T) {
	one := invariant.PermitReport{1, 2, 3, 4, 5, 6, 7, 8, 9, []invariant.PermitBreach{{What: "a"}}}
	sum := one
	one.First = []invariant.PermitBreach{{What: "a"}, {What: "b"}}
	sum.Add(one)
	assert.Equal(t, invariant.PermitReport{2, 4, 6, 8, 10, 12, 14, 16, 18, []invariant.PermitBreach{{What: "a"}, {What: "b"}}}, sum)
}
