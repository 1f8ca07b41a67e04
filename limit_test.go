package velocity_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
)

// clock is a clock that tests set.
type clock struct{ micros atomic.Int64 }

func (c *clock) set(t *testing.T, text string) {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	c.micros.Store(at.UnixMicro())
}

func (c *clock) now() time.Time { return time.UnixMicro(c.micros.Load()) }

func TestQuota_endsWithItsPeriod(t *testing.T) {
	type step struct {
		at             string
		cost           int64
		want           bool
		left           int64
		retryIn, reset time.Duration
	}
	day, hour := 24*time.Hour, time.Hour
	for name, c := range map[string]struct {
		limit velocity.Limit
		steps []step
	}{
		"day": {velocity.Quota(10, velocity.Day), []step{
			{"2026-11-28T23:00:00Z", 10, true, 0, 0, hour},
			{"2026-11-28T23:59:59Z", 1, false, 0, time.Second, time.Second},
			{"2026-11-29T00:00:00Z", 10, true, 0, 0, day},
		}},
		"day in Berlin, whose clocks go back": {velocity.Quota(10, velocity.Day).In("Europe/Berlin"), []step{
			{"2026-10-24T22:00:00Z", 10, true, 0, 0, 25 * hour},
			{"2026-10-25T22:59:59Z", 1, false, 0, time.Second, time.Second},
			{"2026-10-25T23:00:00Z", 1, true, 9, 0, day},
		}},
		"month from a date": {velocity.Quota(10, velocity.Month).From("2026-01-15"), []step{
			{"2026-11-14T23:00:00Z", 10, true, 0, 0, hour},
			{"2026-11-15T00:00:00Z", 1, true, 9, 0, 30 * day},
		}},
		"duration": {velocity.Quota(10, velocity.Every(90*time.Second)), []step{
			{"1970-01-01T00:01:29Z", 10, true, 0, 0, time.Second},
			{"1970-01-01T00:01:30Z", 1, true, 9, 0, 90 * time.Second},
		}},
		"cost of its own": {velocity.Quota(2, "24h").WithCost(1), []step{
			{"2026-11-28T12:00:00Z", 500, true, 1, 0, 12 * hour},
			{"2026-11-28T12:00:00Z", 500, true, 0, 0, 12 * hour},
			{"2026-11-28T12:00:00Z", 500, false, 0, 12 * hour, 12 * hour},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var clk clock
			l := open(t, velocity.Config{Limits: []velocity.Limit{c.limit}, Now: clk.now})
			for i, s := range c.steps {
				clk.set(t, s.at)
				r, err := l.Take(t.Context(), "alice", s.cost)
				require.NoError(t, err)
				assert.Equal(t, s.want, r.Allowed, "step %d", i)
				assert.Equal(t, s.left, r.Remaining, "step %d", i)
				assert.Equal(t, s.retryIn, r.RetryAfter, "step %d", i)
				assert.Equal(t, s.reset, r.ResetAfter, "step %d", i)
				assert.True(t, clk.now().Equal(r.TakenAt), "step %d: %v", i, r.TakenAt)
			}
		})
	}
}

// What was taken in an earlier period counts there: the current one keeps its tokens.
func TestTakenAt_countsInThePeriodOfTheTake(t *testing.T) {
	var c clock
	c.set(t, "2026-11-28T23:59:59Z")
	l := open(t, velocity.Config{Limits: []velocity.Limit{velocity.Quota(10, velocity.Day)}, Now: c.now})
	ctx := t.Context()
	first, err := l.Take(ctx, "alice", 4)
	require.NoError(t, err)
	r, err := l.RefundTakenAt(ctx, "alice", 1, first.TakenAt)
	require.NoError(t, err)
	assert.EqualValues(t, 7, r.Remaining)
	r, err = l.ChargeTakenAt(ctx, "alice", 9, first.TakenAt)
	require.NoError(t, err)
	assert.EqualValues(t, -2, r.Remaining)

	c.set(t, "2026-11-29T00:00:00Z")
	second, err := l.Take(ctx, "alice", 5)
	require.NoError(t, err)
	for _, change := range []func() (velocity.Result, error){
		func() (velocity.Result, error) { return l.RefundTakenAt(ctx, "alice", 1, first.TakenAt) },
		func() (velocity.Result, error) { return l.ChargeTakenAt(ctx, "alice", 1, first.TakenAt) },
	} {
		r, err = change()
		require.NoError(t, err)
		assert.EqualValues(t, 5, r.Remaining)
	}
	r, err = l.RefundTakenAt(ctx, "alice", 1, second.TakenAt)
	require.NoError(t, err)
	assert.EqualValues(t, 6, r.Remaining)
	r, err = l.Refund(ctx, "alice", 1)
	require.NoError(t, err)
	assert.EqualValues(t, 7, r.Remaining, "without a time it counts now")
	_, err = l.RefundTakenAt(ctx, "alice", 1, time.Unix(-1, 0))
	require.ErrorIs(t, err, velocity.ErrInvalid)
	require.ErrorContains(t, err, "takenAt")
	require.NoError(t, l.Reset(ctx, "alice"))
	r, err = l.Peek(ctx, "alice")
	require.NoError(t, err)
	assert.EqualValues(t, 10, r.Remaining)
	assert.Zero(t, r.ResetAfter)
}

func TestTakenAt_isOfThisProcessWhereItsMemoryDecides(t *testing.T) {
	l := open(t, velocity.Config{
		Limits: []velocity.Limit{velocity.Quota(10, velocity.Day)}, Redis: []string{"127.0.0.1:1"}, Failure: velocity.Local,
		OnFailure: func(string, error) {},
	})
	r, err := l.Take(t.Context(), "alice", 1)
	require.NoError(t, err)
	assert.True(t, r.Fallback)
	assert.WithinDuration(t, time.Now(), r.TakenAt, time.Minute)
}

func TestTakenAt_isZeroWithoutAStore(t *testing.T) {
	l := open(t, velocity.Config{
		Limits: []velocity.Limit{velocity.Quota(10, velocity.Day)}, Redis: []string{"127.0.0.1:1"}, OnFailure: func(string, error) {},
	})
	r, err := l.Take(t.Context(), "alice", 1)
	require.NoError(t, err)
	assert.True(t, r.Allowed)
	assert.True(t, r.TakenAt.IsZero(), "%v", r.TakenAt)
}
