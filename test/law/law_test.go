package law_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/test/law"
)

// bucket is a limiter that keeps the law, written in fractions of a token: what the meter is held against.
type bucket struct {
	limit law.Limit
	level int64 // tokens * microseconds of per
	at    int64
}

func newBucket(l law.Limit) *bucket { return &bucket{limit: l, level: l.Capacity * per(l)} }

func per(l law.Limit) int64 { return l.Per.Microseconds() }

func (b *bucket) apply(op law.Op, cost, now int64) law.Record {
	full := b.limit.Capacity * per(b.limit)
	b.level = min(full, b.level+(now-b.at)*b.limit.Refill)
	b.at = now
	r := law.Record{NowUS: now, Op: op, Cost: cost, Verdict: law.Allowed}
	switch cost *= per(b.limit); {
	case op == law.Refund:
		b.level = min(full, b.level+cost)
	case op == law.Charge, op == law.Take && b.level >= cost:
		b.level -= cost
	case op == law.Take:
		r.Verdict = law.Denied
	}
	r.Level = b.level
	return r
}

func drawLimit(t *rapid.T) law.Limit {
	return law.Limit{
		Capacity: rapid.Int64Range(1, 12).Draw(t, "capacity"),
		Refill:   rapid.Int64Range(1, 9).Draw(t, "refill"),
		Per:      rapid.SampledFrom([]time.Duration{7 * time.Microsecond, time.Millisecond, time.Second}).Draw(t, "per"),
	}
}

// drawHistory is what a bucket that keeps the law answers; some answers are lost, and some of what was lost runs later.
func drawHistory(t *rapid.T, l law.Limit, leastMove int64, withLost bool) []law.Record {
	b, now := newBucket(l), int64(1000)
	var history []law.Record
	type late struct {
		op   law.Op
		cost int64
	}
	var sleeping []late
	refunded := false
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		now += rapid.OneOf(rapid.Int64Range(leastMove, 3), rapid.Int64Range(leastMove, 3*per(l))).Draw(t, "move")
		op := rapid.SampledFrom([]law.Op{law.Take, law.Take, law.Take, law.Take, law.Peek, law.Refund, law.Charge}).Draw(t, "op")
		if op == law.Refund || refunded {
			now++ // see Meter.Play
		}
		refunded = op == law.Refund
		cost := rapid.Int64Range(1, 4).Draw(t, "cost")
		fate := 0
		if withLost {
			fate = rapid.IntRange(0, 7).Draw(t, "fate")
		}
		if fate < 5 {
			history = append(history, b.apply(op, cost, now))
		} else {
			history = append(history, law.Record{NowUS: now, Op: op, Cost: cost, Verdict: law.Lost, Level: law.NoLevel})
		}
		switch fate {
		case 6:
			b.apply(op, cost, now)
		case 7:
			sleeping = append(sleeping, late{op, cost})
		}
		if len(sleeping) > 0 && rapid.Bool().Draw(t, "wakes") {
			now++
			refunded = true
			b.apply(sleeping[0].op, sleeping[0].cost, now)
			sleeping = sleeping[1:]
		}
	}
	return history
}

// play judges a history that may come in any order, with the levels told or not.
func play(t require.TestingT, l law.Limit, history []law.Record, levels bool) law.Report {
	m, err := law.NewMeter(l)
	require.NoError(t, err)
	history = slices.Clone(history)
	if !levels {
		for i := range history {
			history[i].Level = law.NoLevel
		}
	}
	m.Play(history)
	return m.Report()
}

func requireClean(t require.TestingT, r law.Report) {
	require.Empty(t, r.First)
	require.Zero(t, r.OverAdmitted+r.Gained+r.Doubled+r.Unjust+r.UnjustRepeated)
}

func TestMeter_aLimiterThatKeepsTheLawIsFoundClean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		history := drawHistory(t, l, 0, false)
		requireClean(t, play(t, l, history, true))
		slices.Reverse(history) // what was decided at one instant may be told in any order
		requireClean(t, play(t, l, history, true))
	})
}

func TestMeter_lostAnswersExcuseWhatTheyMayHaveDone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		history := drawHistory(t, l, 0, true)
		requireClean(t, play(t, l, history, true))
		requireClean(t, play(t, l, history, false))
	})
}

// One denial, told as admitted, must be seen by the verdicts alone, and by the levels alone.
func TestMeter_seesOneTokenTooMany(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		denials := func(history []law.Record) []int {
			return indices(history, func(r law.Record) bool { return r.Verdict == law.Denied && r.Cost <= l.Capacity })
		}
		history := rapid.Custom(func(t *rapid.T) []law.Record { return drawHistory(t, l, 1, false) }).
			Filter(func(history []law.Record) bool { return len(denials(history)) > 0 }).Draw(t, "history")
		at := rapid.SampledFrom(denials(history)).Draw(t, "denial")
		history[at].Verdict = law.Allowed
		r := play(t, l, history, false)
		require.Positive(t, r.OverAdmitted, "by the verdicts: %+v", history)
		r = play(t, l, history, true)
		require.Positive(t, r.Gained, "by the levels: %+v", history)
	})
}

// One admission, told as a denial, must be seen.
func TestMeter_seesOneUnjustDenial(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		b, now := newBucket(l), int64(1)
		var history []law.Record
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			now += rapid.Int64Range(1, per(l)).Draw(t, "move")
			history = append(history, b.apply(law.Take, rapid.Int64Range(1, 4).Draw(t, "cost"), now))
		}
		now += 12 * per(l)
		wronged := b.apply(law.Peek, 1, now) // affordable: it has had the time to fill
		wronged.Op, wronged.Verdict = law.Take, law.Denied
		history = append(history, wronged)
		require.EqualValues(t, 1, play(t, l, history, true).Unjust)
		require.EqualValues(t, 1, play(t, l, history, false).Unjust)
	})
}

// A take that ran twice must be seen by the level that a later answer tells.
func TestMeter_seesOneDoubleDebit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := law.Limit{Capacity: 1000, Refill: 1, Per: time.Hour}
		b, now := newBucket(l), int64(1)
		var history []law.Record
		twice := rapid.IntRange(0, 19).Draw(t, "twice")
		for i := range 20 {
			now += rapid.Int64Range(0, 5).Draw(t, "move")
			cost := rapid.Int64Range(1, 4).Draw(t, "cost")
			history = append(history, b.apply(law.Take, cost, now))
			if i == twice {
				b.apply(law.Take, cost, now)
			}
		}
		history = append(history, b.apply(law.Peek, 0, now+1))
		require.Positive(t, play(t, l, history, true).Doubled, "%+v", history)
	})
}

// The meter must break in the very histories in which some window does, which is checked here window by window.
func TestMeter_findsWhatEveryWindowFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		var history []law.Record
		now := int64(0)
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			now += rapid.OneOf(rapid.Int64Range(0, 2), rapid.Int64Range(0, 2*per(l))).Draw(t, "move")
			history = append(history, law.Record{
				NowUS: now, Op: law.Take, Cost: rapid.Int64Range(1, 3).Draw(t, "cost"), Verdict: law.Allowed, Level: law.NoLevel,
			})
		}
		broken := false
		for from := range history {
			admitted := int64(0)
			for _, r := range history[from:] {
				admitted += r.Cost * per(l)
				broken = broken || admitted > l.Capacity*per(l)+(r.NowUS-history[from].NowUS)*l.Refill
			}
		}
		require.Equal(t, broken, play(t, l, history, false).OverAdmitted > 0, "%+v", history)
	})
}

func TestMeter_spans(t *testing.T) {
	l := law.Limit{Capacity: 2, Refill: 1, Per: time.Second}
	repeated := func(at, span int64) law.Record {
		return law.Record{NowUS: at, SpanUS: span, Op: law.Take, Cost: 1, Verdict: law.Denied, Level: law.NoLevel}
	}
	b := newBucket(l)
	drained := []law.Record{b.apply(law.Take, 2, 1000), b.apply(law.Take, 1, 1001)}
	for name, c := range map[string]struct {
		record law.Record
		unjust int64
	}{
		"while it was poor":                 {repeated(2000, 10), 0},
		"begun while it was full":           {repeated(900, 200), 0},
		"over before it was poor":           {repeated(900, 50), 1},
		"when a token was back":             {repeated(1_001_001, 10), 1},
		"a microsecond before it was back":  {repeated(1_000_999, 10), 0},
		"begun before the token was back":   {repeated(1_000_900, 500), 0},
		"begun when it was long full again": {repeated(9_000_000, 500), 1},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, c.unjust, play(t, l, append(slices.Clone(drained), c.record), true).UnjustRepeated)
		})
	}
}

func TestMeter_settledOperationsExcuseNothing(t *testing.T) {
	l := law.Limit{Capacity: 10, Refill: 1, Per: time.Hour}
	for settled, want := range map[bool]int64{false: 0, true: 2} {
		m, err := law.NewMeter(l)
		require.NoError(t, err)
		b := newBucket(l)
		m.Play([]law.Record{{NowUS: 1, Op: law.Take, Cost: 2, Verdict: law.Lost, Level: law.NoLevel}})
		m.Play([]law.Record{b.apply(law.Peek, 0, 2)})
		if settled {
			m.Settled()
		}
		b.apply(law.Take, 2, 3)
		m.Play([]law.Record{b.apply(law.Peek, 0, 4)})
		assert.Equal(t, want, m.Report().Doubled)
	}
}

func TestMeter_orderedHistoriesBearAClockThatGoesBack(t *testing.T) {
	l := law.Limit{Capacity: 5, Refill: 1, Per: time.Second}
	m, err := law.NewMeter(l)
	require.NoError(t, err)
	m.Ordered = true
	take := func(now, level int64) law.Record {
		return law.Record{NowUS: now, Op: law.Take, Cost: 1, Verdict: law.Allowed, Level: level * 1_000_000}
	}
	m.Play([]law.Record{take(9_000_000, 4), take(1_000_000, 3), take(2_000_000, 3), take(2_000_000, 2)})
	requireClean(t, m.Report())
	m.Play([]law.Record{take(2_000_000, 2)})
	assert.EqualValues(t, 1, m.Report().Gained, "nothing passed, and a token came from nowhere")
}

func TestNewMeter_refusesWhatItCannotCount(t *testing.T) {
	for _, l := range []law.Limit{
		{Capacity: 0, Refill: 1, Per: time.Second},
		{Capacity: 1, Refill: 0, Per: time.Second},
		{Capacity: 1, Refill: 1, Per: 0},
		{Capacity: 1, Refill: 1, Per: 1500 * time.Nanosecond},
		{Capacity: 1_000_000_000_000, Refill: 1, Per: 24 * time.Hour},
	} {
		_, err := law.NewMeter(l)
		assert.Error(t, err, "%+v", l)
	}
}

func indices(history []law.Record, which func(law.Record) bool) []int {
	var found []int
	for i, r := range history {
		if which(r) {
			found = append(found, i)
		}
	}
	return found
}
