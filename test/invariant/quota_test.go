package invariant_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/test/invariant"
)

// period is the length of a period in these tests, in microseconds.
const period = 100

func quotaOf(size int64) invariant.Quota {
	return invariant.Quota{Size: size, Start: func(us int64) int64 { return us - us%period }}
}

// quota is a correct quota. The tests compare the checker with it.
type quota struct {
	size, used, at int64
}

func (q *quota) apply(op invariant.Op, cost, taken, now int64) invariant.Record {
	start := now - now%period
	if q.at < start {
		q.used = 0
	}
	r := invariant.Record{NowUS: now, Op: op, Cost: cost, TakenUS: taken, Verdict: invariant.Allowed}
	before, counts := q.used, taken == 0 || taken >= start
	switch {
	case op == invariant.Refund && counts:
		q.used = max(0, q.used-cost)
	case op == invariant.Charge && counts, op == invariant.Take && q.used+cost <= q.size:
		q.used += cost
	case op == invariant.Take:
		r.Verdict = invariant.Denied
	}
	if q.used != before || q.at > now {
		q.at = now
	}
	r.Level = q.size - q.used
	return r
}

// drawQuotaHistory returns random operations with the answers of a correct quota. With withLost some answers are lost, and
// some of those operations run now or later.
func drawQuotaHistory(t *rapid.T, size int64, withLost bool) []invariant.Record {
	q, now := &quota{size: size}, int64(1000)
	var history []invariant.Record
	var late []invariant.Record
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		before := now
		now += 1 + rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, 2*period)).Draw(t, "move")
		op, cost := rapid.SampledFrom(drawnOps).Draw(t, "op"), rapid.Int64Range(1, 4).Draw(t, "cost")
		taken := rapid.SampledFrom([]int64{0, before}).Draw(t, "taken")
		outcome := 0
		if withLost {
			outcome = rapid.IntRange(0, 7).Draw(t, "outcome")
		}
		lost := invariant.Record{NowUS: now, Op: op, Cost: cost, TakenUS: taken, Verdict: invariant.Lost, Level: invariant.NoLevel}
		switch {
		case outcome < 5:
			history = append(history, q.apply(op, cost, taken, now))
			continue
		case outcome == 6:
			q.apply(op, cost, taken, now)
		case outcome == 7:
			late = append(late, lost)
		}
		history = append(history, lost)
		if len(late) > 0 && rapid.Bool().Draw(t, "runs now") {
			now++
			q.apply(late[0].Op, late[0].Cost, late[0].TakenUS, now)
			late = late[1:]
		}
	}
	return history
}

// replayQuota checks a history, with or without the reported levels.
func replayQuota(t require.TestingT, size int64, history []invariant.Record, levels bool) invariant.Report {
	c, err := invariant.NewQuotaChecker(quotaOf(size))
	require.NoError(t, err)
	history = slices.Clone(history)
	for i := range history {
		if !levels {
			history[i].Level = invariant.NoLevel
		}
	}
	c.Replay(history)
	return c.Report()
}

func TestQuotaChecker_findsNoBreachInACorrectQuota(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 12).Draw(t, "size")
		history := drawQuotaHistory(t, size, false)
		requireClean(t, replayQuota(t, size, history, true))
		slices.Reverse(history)
		requireClean(t, replayQuota(t, size, history, true))
	})
}

func TestQuotaChecker_lostOperationsMayHaveRun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 12).Draw(t, "size")
		history := drawQuotaHistory(t, size, true)
		requireClean(t, replayQuota(t, size, history, true))
		requireClean(t, replayQuota(t, size, history, false))
	})
}

// A denial that is recorded as allowed is found by the verdicts alone, and by the levels.
func TestQuotaChecker_findsOneTokenTooMany(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 12).Draw(t, "size")
		denials := func(history []invariant.Record) []int {
			return indices(history, func(r invariant.Record) bool { return r.Verdict == invariant.Denied && r.Cost <= size })
		}
		history := rapid.Custom(func(t *rapid.T) []invariant.Record { return drawQuotaHistory(t, size, false) }).
			Filter(func(history []invariant.Record) bool { return len(denials(history)) > 0 }).Draw(t, "history")
		history[rapid.SampledFrom(denials(history)).Draw(t, "denial")].Verdict = invariant.Allowed
		require.Positive(t, replayQuota(t, size, history, false).OverAdmitted, "by the verdicts: %+v", history)
		require.Positive(t, replayQuota(t, size, history, true).Gained, "by the levels: %+v", history)
	})
}

// The checker reports a breach exactly if some period admitted too much. This test counts each period by itself.
func TestQuotaChecker_agreesWithACountOfEveryPeriod(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size, now := rapid.Int64Range(1, 12).Draw(t, "size"), int64(0)
		var history []invariant.Record
		admitted := map[int64]int64{}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			now += rapid.OneOf(rapid.Int64Range(0, 2), rapid.Int64Range(0, 2*period)).Draw(t, "move")
			cost := rapid.Int64Range(1, 3).Draw(t, "cost")
			history = append(history, invariant.Record{NowUS: now, Cost: cost, Verdict: invariant.Allowed, Level: invariant.NoLevel})
			admitted[now/period] += cost
		}
		want := int64(0)
		for _, n := range admitted {
			want += max(0, n-size)
		}
		r := replayQuota(t, size, history, false)
		require.Equal(t, want, r.OverAdmitted, "%+v", history)
		require.EqualValues(t, len(admitted), r.Periods)
	})
}

func TestQuotaChecker_findsEachKindOfBreach(t *testing.T) {
	const size = 10
	answer := func(op invariant.Op, cost, now, level int64) invariant.Record {
		return invariant.Record{NowUS: now, Op: op, Cost: cost, Verdict: invariant.Allowed, Level: level}
	}
	denied := func(now, level int64) invariant.Record {
		return invariant.Record{NowUS: now, Op: invariant.Take, Cost: 4, Verdict: invariant.Denied, Level: level}
	}
	back := func(op invariant.Op, taken, level int64) invariant.Record {
		r := answer(op, 4, 250, level)
		r.TakenUS = taken
		return r
	}
	spent := []invariant.Record{answer(invariant.Take, 7, 110, 3), denied(120, 3), answer(invariant.Take, 7, 230, 3)}
	for name, c := range map[string]struct {
		last invariant.Record
		want invariant.Report
	}{
		"correct":                             {answer(invariant.Take, 3, 299, 0), invariant.Report{}},
		"a new period":                        {answer(invariant.Take, 7, 300, 3), invariant.Report{}},
		"the period ended too early":          {answer(invariant.Take, 7, 299, 3), invariant.Report{OverAdmitted: 4, Gained: 7}},
		"the period ended too late":           {answer(invariant.Take, 3, 300, 0), invariant.Report{DoubleDebited: 7}},
		"denied though the period was new":    {denied(300, invariant.NoLevel), invariant.Report{FalseDenials: 1}},
		"denied as if the period were old":    {denied(300, 3), invariant.Report{DoubleDebited: 7}},
		"denied by the old state, later":      {invariant.Record{NowUS: 300, SpanUS: 5, Cost: 4, Level: invariant.NoLevel}, invariant.Report{StaleDenials: 1}},
		"denied by the old state, in time":    {invariant.Record{NowUS: 299, SpanUS: 5, Cost: 4, Level: invariant.NoLevel}, invariant.Report{}},
		"a debit is lost":                     {answer(invariant.Peek, 0, 250, 10), invariant.Report{Gained: 7}},
		"debited twice":                       {answer(invariant.Take, 1, 250, 1), invariant.Report{DoubleDebited: 1}},
		"a refund is lost":                    {answer(invariant.Refund, 4, 250, 3), invariant.Report{DoubleDebited: 4}},
		"a refund of this period":             {back(invariant.Refund, 200, 7), invariant.Report{}},
		"a refund of the last period":         {back(invariant.Refund, 199, 3), invariant.Report{}},
		"a refund of the last period counted": {back(invariant.Refund, 199, 7), invariant.Report{Gained: 4}},
		"a charge into debt":                  {back(invariant.Charge, 0, -1), invariant.Report{}},
		"a charge of the last period":         {back(invariant.Charge, 199, 3), invariant.Report{}},
		"a charge of the last period counted": {back(invariant.Charge, 199, -1), invariant.Report{DoubleDebited: 4}},
		"a debt outlives its period":          {answer(invariant.Peek, 0, 350, -1), invariant.Report{DoubleDebited: 11}},
	} {
		t.Run(name, func(t *testing.T) {
			r := replayQuota(t, size, append(slices.Clone(spent), c.last), true)
			r.Records, r.Admitted, r.Denied, r.Periods, r.First = 0, 0, 0, 0, nil
			assert.Equal(t, c.want, r)
		})
	}
}

// A refund whose answer was lost gives no tokens after the end of the period in which they were taken.
func TestQuotaChecker_aLostRefundOfAnEarlierPeriodExplainsNothing(t *testing.T) {
	for taken, want := range map[int64]int64{199: 1, 200: 0} {
		q := quota{size: 10}
		history := []invariant.Record{q.apply(invariant.Take, 10, 0, 210)}
		history = append(history, invariant.Record{
			NowUS: 220, Op: invariant.Refund, Cost: 1, TakenUS: taken, Verdict: invariant.Lost, Level: invariant.NoLevel,
		}, invariant.Record{NowUS: 230, Cost: 1, Verdict: invariant.Allowed, Level: 0})
		r := replayQuota(t, 10, history, true)
		assert.Equal(t, want, r.OverAdmitted, "taken at %d", taken)
		assert.Equal(t, want, r.Gained, "taken at %d", taken)
	}
}

// A clock that crosses a period's end and comes back admits up to one quota more in each of the two periods, each time. The
// levels explain it. The verdicts show it, period by period.
func TestQuotaChecker_countsWhatAClockThatComesBackGives(t *testing.T) {
	const size = 5
	c, err := invariant.NewQuotaChecker(quotaOf(size))
	require.NoError(t, err)
	c.Ordered = true
	q := quota{size: size}
	var history []invariant.Record
	for _, now := range []int64{150, 250, 160, 260, 170} {
		for range size + 1 { // the last one is denied
			history = append(history, q.apply(invariant.Take, 1, 0, now))
		}
	}
	c.Replay(history)
	r := c.Report()
	assert.EqualValues(t, 3*size, r.Admitted, "150 and 250 and, once more, 260")
	assert.EqualValues(t, size, r.OverAdmitted, "in the second period")
	assert.EqualValues(t, 2, r.Periods)
	assert.Zero(t, r.Gained+r.DoubleDebited+r.FalseDenials, "%+v", r.First)
}

func TestNewQuotaChecker_refusesQuotasThatItCannotCount(t *testing.T) {
	for _, q := range []invariant.Quota{{Size: 0, Start: quotaOf(1).Start}, {Size: 1}} {
		_, err := invariant.NewQuotaChecker(q)
		assert.Error(t, err, "%+v", q)
	}
}
