package invariant_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/test/invariant"
)

// bucket is a correct token bucket, counted in fractions of a token. The tests compare the checker with it.
type bucket struct {
	limit invariant.Limit
	level int64 // tokens * microseconds of per
	at    int64
}

func newBucket(l invariant.Limit) *bucket { return &bucket{limit: l, level: l.Capacity * per(l)} }

func per(l invariant.Limit) int64 { return l.Per.Microseconds() }

func (b *bucket) apply(op invariant.Op, cost, now int64) invariant.Record {
	return b.applyWithin(0, op, cost, now)
}

// applyWithin is apply for a take that may wait for maxWait, in microseconds.
func (b *bucket) applyWithin(maxWait int64, op invariant.Op, cost, now int64) invariant.Record {
	full := b.limit.Capacity * per(b.limit)
	b.level = min(full, b.level+(now-b.at)*b.limit.Refill)
	b.at = now
	r := invariant.Record{NowUS: now, Op: op, Cost: cost, Verdict: invariant.Allowed}
	switch cost *= per(b.limit); {
	case op == invariant.Refund:
		b.level = min(full, b.level+cost)
	case op == invariant.Charge:
		b.level -= cost
	case op == invariant.Take && cost <= full && b.level+maxWait*b.limit.Refill >= cost:
		b.level -= cost
		r.WaitUS = (max(0, -b.level) + b.limit.Refill - 1) / b.limit.Refill
	case op == invariant.Take:
		r.Verdict, r.WaitUS = invariant.Denied, maxWait
	}
	r.Level = b.level
	return r
}

func drawLimit(t *rapid.T) invariant.Limit {
	return invariant.Limit{
		Capacity: rapid.Int64Range(1, 12).Draw(t, "capacity"),
		Refill:   rapid.Int64Range(1, 9).Draw(t, "refill"),
		Per:      rapid.SampledFrom([]time.Duration{7 * time.Microsecond, time.Millisecond, time.Second}).Draw(t, "per"),
	}
}

// drawnOps holds Take several times, so that it is drawn more often.
var drawnOps = []invariant.Op{
	invariant.Take, invariant.Take, invariant.Take, invariant.Take, invariant.Peek, invariant.Refund, invariant.Charge,
}

// drawHistory returns random operations with the answers of a correct bucket. With withLost some answers are lost, and
// some of the lost operations run later.
func drawHistory(t *rapid.T, l invariant.Limit, minMove int64, withLost bool) []invariant.Record {
	b, now := newBucket(l), int64(1000)
	var history []invariant.Record
	type late struct {
		op   invariant.Op
		cost int64
	}
	var delayed []late
	refunded := false
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		now += rapid.OneOf(rapid.Int64Range(minMove, 3), rapid.Int64Range(minMove, 3*per(l))).Draw(t, "move")
		op := rapid.SampledFrom(drawnOps).Draw(t, "op")
		if op == invariant.Refund || refunded {
			now++ // a refund must not share its microsecond, see Checker.Replay
		}
		refunded = op == invariant.Refund
		cost := rapid.Int64Range(1, 4).Draw(t, "cost")
		outcome := 0
		if withLost {
			outcome = rapid.IntRange(0, 7).Draw(t, "outcome")
		}
		if outcome < 5 {
			maxWait := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 3*per(l))).Draw(t, "max wait")
			history = append(history, b.applyWithin(maxWait, op, cost, now))
		} else {
			history = append(history, invariant.Record{NowUS: now, Op: op, Cost: cost, Verdict: invariant.Lost, Level: invariant.NoLevel})
		}
		switch outcome {
		case 6:
			b.apply(op, cost, now)
		case 7:
			delayed = append(delayed, late{op, cost})
		}
		if len(delayed) > 0 && rapid.Bool().Draw(t, "runs now") {
			now++
			refunded = true
			b.apply(delayed[0].op, delayed[0].cost, now)
			delayed = delayed[1:]
		}
	}
	return history
}

// replay checks a history in any order, with or without the reported levels.
func replay(t require.TestingT, l invariant.Limit, history []invariant.Record, levels bool) invariant.Report {
	c, err := invariant.NewChecker(l)
	require.NoError(t, err)
	history = slices.Clone(history)
	if !levels {
		for i := range history {
			history[i].Level = invariant.NoLevel
		}
	}
	c.Replay(history)
	return c.Report()
}

func requireClean(t require.TestingT, r invariant.Report) {
	require.Empty(t, r.First)
	require.Zero(t, r.OverAdmitted+r.Gained+r.DoubleDebited+r.FalseDenials+r.StaleDenials+r.WrongWaits)
}

func TestChecker_findsNoBreachInACorrectLimiter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		history := drawHistory(t, l, 0, false)
		requireClean(t, replay(t, l, history, true))
		slices.Reverse(history) // records of one instant may come in any order
		requireClean(t, replay(t, l, history, true))
	})
}

func TestChecker_lostOperationsMayHaveRun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		history := drawHistory(t, l, 0, true)
		requireClean(t, replay(t, l, history, true))
		requireClean(t, replay(t, l, history, false))
	})
}

// A denial that is recorded as allowed is found by the verdicts alone, and by the levels.
func TestChecker_findsOneTokenTooMany(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		denials := func(history []invariant.Record) []int {
			return indices(history, func(r invariant.Record) bool { return r.Verdict == invariant.Denied && r.Cost <= l.Capacity })
		}
		history := rapid.Custom(func(t *rapid.T) []invariant.Record { return drawHistory(t, l, 1, false) }).
			Filter(func(history []invariant.Record) bool { return len(denials(history)) > 0 }).Draw(t, "history")
		at := rapid.SampledFrom(denials(history)).Draw(t, "denial")
		history[at].Verdict = invariant.Allowed
		r := replay(t, l, history, false)
		require.Positive(t, r.OverAdmitted, "by the verdicts: %+v", history)
		r = replay(t, l, history, true)
		require.Positive(t, r.Gained, "by the levels: %+v", history)
	})
}

// A denial of a cost that the bucket can pay is found.
func TestChecker_findsOneFalseDenial(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		b, now := newBucket(l), int64(1)
		var history []invariant.Record
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			now += rapid.Int64Range(1, per(l)).Draw(t, "move")
			history = append(history, b.apply(invariant.Take, rapid.Int64Range(1, 4).Draw(t, "cost"), now))
		}
		now += 12 * per(l) // time enough to fill the bucket
		denied := b.apply(invariant.Peek, 1, now)
		denied.Op, denied.Verdict = invariant.Take, invariant.Denied
		history = append(history, denied)
		require.EqualValues(t, 1, replay(t, l, history, true).FalseDenials)
		require.EqualValues(t, 1, replay(t, l, history, false).FalseDenials)
	})
}

// A take that ran twice is found by the level of a later answer.
func TestChecker_findsOneDoubleDebit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := invariant.Limit{Capacity: 1000, Refill: 1, Per: time.Hour}
		b, now := newBucket(l), int64(1)
		var history []invariant.Record
		twice := rapid.IntRange(0, 19).Draw(t, "twice")
		for i := range 20 {
			now += rapid.Int64Range(0, 5).Draw(t, "move")
			cost := rapid.Int64Range(1, 4).Draw(t, "cost")
			history = append(history, b.apply(invariant.Take, cost, now))
			if i == twice {
				b.apply(invariant.Take, cost, now)
			}
		}
		history = append(history, b.apply(invariant.Peek, 0, now+1))
		require.Positive(t, replay(t, l, history, true).DoubleDebited, "%+v", history)
	})
}

// The checker reports a breach exactly if some window breaks the invariant. This test checks every window by itself.
func TestChecker_agreesWithACheckOfEveryWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		var history []invariant.Record
		now := int64(0)
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			now += rapid.OneOf(rapid.Int64Range(0, 2), rapid.Int64Range(0, 2*per(l))).Draw(t, "move")
			history = append(history, invariant.Record{
				NowUS: now, Op: invariant.Take, Cost: rapid.Int64Range(1, 3).Draw(t, "cost"), Verdict: invariant.Allowed, Level: invariant.NoLevel,
			})
		}
		want := false
		for from := range history {
			admitted := int64(0)
			for _, r := range history[from:] {
				admitted += r.Cost * per(l)
				want = want || admitted > l.Capacity*per(l)+(r.NowUS-history[from].NowUS)*l.Refill
			}
		}
		require.Equal(t, want, replay(t, l, history, false).OverAdmitted > 0, "%+v", history)
	})
}

func TestChecker_aDenialWithASpanIsCorrectAtAnyTimeOfIt(t *testing.T) {
	l := invariant.Limit{Capacity: 2, Refill: 1, Per: time.Second}
	denied := func(at, span int64) invariant.Record {
		return invariant.Record{NowUS: at, SpanUS: span, Op: invariant.Take, Cost: 1, Verdict: invariant.Denied, Level: invariant.NoLevel}
	}
	waits := func(us int64, r invariant.Record) invariant.Record {
		r.WaitUS = us
		return r
	}
	b := newBucket(l)
	drained := []invariant.Record{b.apply(invariant.Take, 2, 1000), b.apply(invariant.Take, 1, 1001)}
	for name, c := range map[string]struct {
		record invariant.Record
		stale  int64
	}{
		"while the bucket was empty":            {denied(2000, 10), 0},
		"begins while the bucket was full":      {denied(900, 200), 0},
		"ends before the bucket was empty":      {denied(900, 50), 1},
		"begins when a token was back":          {denied(1_001_001, 10), 1},
		"begins a microsecond before that":      {denied(1_000_999, 10), 0},
		"begins long before the token was back": {denied(1_000_900, 500), 0},
		"begins when the bucket was full again": {denied(9_000_000, 500), 1},
		"lent too little for its wait":          {waits(500_000, denied(900, 200)), 0},
		"lent enough for its wait":              {waits(1_001_000, denied(900, 200)), 1},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, c.stale, replay(t, l, append(slices.Clone(drained), c.record), true).StaleDenials)
		})
	}
}

func TestChecker_noneInFlightEndsTheAllowanceForLostOperations(t *testing.T) {
	l := invariant.Limit{Capacity: 10, Refill: 1, Per: time.Hour}
	for noneInFlight, want := range map[bool]int64{false: 0, true: 2} {
		c, err := invariant.NewChecker(l)
		require.NoError(t, err)
		b := newBucket(l)
		c.Replay([]invariant.Record{{NowUS: 1, Op: invariant.Take, Cost: 2, Verdict: invariant.Lost, Level: invariant.NoLevel}})
		c.Replay([]invariant.Record{b.apply(invariant.Peek, 0, 2)})
		if noneInFlight {
			c.NoneInFlight()
		}
		b.apply(invariant.Take, 2, 3)
		c.Replay([]invariant.Record{b.apply(invariant.Peek, 0, 4)})
		assert.Equal(t, want, c.Report().DoubleDebited)
	}
}

func TestChecker_orderedRecordsAllowAClockThatGoesBack(t *testing.T) {
	l := invariant.Limit{Capacity: 5, Refill: 1, Per: time.Second}
	c, err := invariant.NewChecker(l)
	require.NoError(t, err)
	c.Ordered = true
	take := func(now, level int64) invariant.Record {
		return invariant.Record{NowUS: now, Op: invariant.Take, Cost: 1, Verdict: invariant.Allowed, Level: level * 1_000_000}
	}
	c.Replay([]invariant.Record{take(9_000_000, 4), take(1_000_000, 3), take(2_000_000, 3), take(2_000_000, 2)})
	requireClean(t, c.Report())
	c.Replay([]invariant.Record{take(2_000_000, 2)})
	assert.EqualValues(t, 1, c.Report().Gained, "no time passed, and the bucket gained a token")
}

// A refund of nothing writes nothing, so a clock that goes back loses what was refilled since the last write.
func TestChecker_orderedRecordsKnowThatARefundOfAFullBucketWritesNothing(t *testing.T) {
	c, err := invariant.NewChecker(invariant.Limit{Capacity: 5, Refill: 1, Per: time.Second})
	require.NoError(t, err)
	c.Ordered = true
	answer := func(op invariant.Op, now, level int64) invariant.Record {
		return invariant.Record{NowUS: now, Op: op, Cost: 1, Verdict: invariant.Allowed, Level: level * 1_000_000}
	}
	c.Replay([]invariant.Record{
		answer(invariant.Take, 10_000_000, 4), answer(invariant.Refund, 12_000_000, 5), answer(invariant.Take, 1_000_000, 3),
		answer(invariant.Refund, 1_000_000, 4), answer(invariant.Take, 0, 3),
	})
	requireClean(t, c.Report())
}

func TestNewChecker_refusesLimitsThatItCannotCount(t *testing.T) {
	for _, l := range []invariant.Limit{
		{Capacity: 0, Refill: 1, Per: time.Second},
		{Capacity: 1, Refill: 0, Per: time.Second},
		{Capacity: 1, Refill: 1, Per: 0},
		{Capacity: 1, Refill: 1, Per: 1500 * time.Nanosecond},
		{Capacity: 1_000_000_000_000, Refill: 1, Per: 24 * time.Hour},
	} {
		_, err := invariant.NewChecker(l)
		assert.Error(t, err, "%+v", l)
	}
}

func indices(history []invariant.Record, which func(invariant.Record) bool) []int {
	var found []int
	for i, r := range history {
		if which(r) {
			found = append(found, i)
		}
	}
	return found
}
