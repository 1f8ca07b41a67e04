package domain_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

func TestNewQuota_keepsWhatItWasGiven(t *testing.T) {
	days, err := calendar.Parse("day", "Europe/Berlin", "")
	require.NoError(t, err)
	l, err := domain.NewQuota("daily", 1000, days)
	require.NoError(t, err)
	assert.Equal(t, "daily", l.Name())
	assert.Equal(t, domain.KindQuota, l.Kind())
	assert.Equal(t, domain.Tokens(1000), l.Capacity())
	assert.Same(t, days, l.Quota().Periods())
	assert.Nil(t, l.TokenBucket())
	assert.Equal(t, "1000/day in Europe/Berlin", l.Rate())
	assert.Equal(t, "daily: quota 1000/day in Europe/Berlin", l.String())
	assert.False(t, l.IsZero())
	change := domain.InstantOf(time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC))
	assert.Equal(t, 23*time.Hour, l.Window(change), "clocks are set forward on this day")
	assert.Equal(t, 24*time.Hour, l.Window(change.Add(24*time.Hour)))
}

func TestNewQuota_namesEveryFieldThatIsWrong(t *testing.T) {
	hours, err := calendar.Parse("hour", "", "")
	require.NoError(t, err)
	cases := []struct {
		name    string
		quota   domain.Tokens
		periods domain.Periods
		want    string
	}{
		{"daily", 0, hours, "quota: 0: must be from 1 to 10^12 tokens"},
		{"daily", -1, hours, "quota: -1: must be from 1 to 10^12 tokens"},
		{"daily", domain.MaxTokens + 1, hours, "quota: 1000000000001: must be from 1 to 10^12 tokens"},
		{"Daily", 1, hours, `name: "Daily": must match [a-z0-9][a-z0-9_-]{0,62}`},
		{"daily", 1, nil, "quota: must have a period"},
		{
			"", math.MinInt64, nil, `name: "": must match [a-z0-9][a-z0-9_-]{0,62}` +
				"\nquota: -9223372036854775808: must be from 1 to 10^12 tokens\nquota: must have a period",
		},
	}
	for _, c := range cases {
		l, err := domain.NewQuota(c.name, c.quota, c.periods)
		require.EqualError(t, err, c.want)
		require.ErrorIs(t, err, domain.ErrInvalidLimit)
		assert.True(t, l.IsZero())
	}
	_, err = domain.NewQuota("daily", domain.MaxTokens, hours)
	require.NoError(t, err)
}

func TestQuota_admitsItsTokensInEachPeriod(t *testing.T) {
	playStory(t, mustQuota(t, 3), []step{
		{cost: 1, want: allowed(2)},
		{at: time.Minute, cost: 3, want: denied(2, 59*time.Minute)},
		{at: time.Minute, cost: 2, want: allowed(0)},
		{at: 2 * time.Minute, cost: 4, want: denied(0, domain.Never)},
		{at: time.Hour - us, cost: 1, want: denied(0, us)},
		{at: time.Hour, cost: 3, want: allowed(0)},
		{at: time.Hour, cost: 1, want: denied(0, time.Hour)},
		{at: 9*time.Hour + time.Minute, op: domain.OpPeek, want: allowed(3)},
		{at: 9*time.Hour + time.Minute, cost: 4, want: denied(3, domain.Never)},
	})
}

func TestQuota_refundStopsAtUnused(t *testing.T) {
	playStory(t, mustQuota(t, 5), []step{
		{cost: 3, want: allowed(2)},
		{op: domain.OpRefund, cost: 2, want: allowed(4)},
		{op: domain.OpRefund, cost: 2, want: allowed(5)},
		{op: domain.OpRefund, cost: domain.MaxCost, want: allowed(5)},
		{cost: 5, want: allowed(0)},
		{op: domain.OpReset, want: allowed(5)},
	})
}

func TestQuota_debtEndsWithThePeriod(t *testing.T) {
	playStory(t, mustQuota(t, 3), []step{
		{op: domain.OpCharge, cost: 5, want: allowed(-2)},
		{cost: 1, want: denied(-2, time.Hour)},
		{op: domain.OpRefund, cost: 3, want: allowed(1)},
		{op: domain.OpCharge, cost: 9, want: allowed(-8)},
		{at: time.Hour - us, cost: 1, want: denied(-8, us)},
		{at: time.Hour, cost: 1, want: allowed(2)},
	})
}

func TestQuota_chargeStopsAtTheLargestDebt(t *testing.T) {
	l := mustQuota(t, domain.MaxTokens)
	g := newGroup(l)
	g.stored[0] = domain.State{Amount: domain.Credits(domain.MaxTokens) + domain.MaxCredits - 7, At: t0, TokenCredits: 1}
	for _, s := range []step{
		{cost: 8, want: refused(7 - domain.Tokens(domain.MaxCredits))},
		{cost: 6, want: allowed(1 - domain.Tokens(domain.MaxCredits))},
		{cost: domain.MaxCost, want: refused(1 - domain.Tokens(domain.MaxCredits))},
		{cost: 1, want: allowed(-domain.Tokens(domain.MaxCredits))},
	} {
		verdict, states, _ := g.apply(domain.OpCharge, s.cost, t0)
		assert.Equal(t, s.want, answer{verdict: verdict, left: l.Remaining(states[0])}, "cost %d", s.cost)
	}
}

func TestQuota_backwardsTimeForgetsNothingAndDelaysNoClient(t *testing.T) {
	playStory(t, mustQuota(t, 3), []step{
		{cost: 2, want: allowed(1)},
		{at: -time.Minute, cost: 2, want: denied(1, time.Minute)}, // its time is now in the period before t0
		{at: 0, cost: 3, want: allowed(0)},
		{at: -time.Minute, cost: 1, want: denied(0, time.Minute)},
		{at: -time.Minute, op: domain.OpRefund, cost: 1, want: allowed(1)},
		{at: -time.Minute, cost: 1, want: allowed(0)},
		{at: -time.Hour - us, cost: 1, want: denied(0, us)},
		{at: -time.Hour, cost: 3, want: allowed(0)},
		{at: 0, cost: 3, want: allowed(0)},
	})
	// A client that asks nothing meanwhile keeps the later time, and so waits for that period's end.
	playStory(t, mustQuota(t, 3), []step{
		{at: time.Minute, cost: 3, want: allowed(0)},
		{at: -time.Minute, op: domain.OpPeek, want: allowed(0)},
		{at: 2 * time.Minute, cost: 1, want: denied(0, 58*time.Minute)},
	})
}

func TestQuota_waits(t *testing.T) {
	l := mustQuota(t, 10)
	now := t0.Add(20 * time.Minute)
	const rest = 40 * time.Minute
	cases := []struct {
		used                       domain.Credits
		remaining                  domain.Tokens
		retry1, retry3, next, full time.Duration
		fullAt                     domain.Instant
	}{
		{used: 0, remaining: 10, fullAt: t0.Add(time.Minute)},
		{used: 1, remaining: 9, next: rest, full: rest, fullAt: t0.Add(time.Hour)},
		{used: 8, remaining: 2, retry3: rest, next: rest, full: rest, fullAt: t0.Add(time.Hour)},
		{used: 10, remaining: 0, retry1: rest, retry3: rest, next: rest, full: rest, fullAt: t0.Add(time.Hour)},
		{used: 99, remaining: -89, retry1: rest, retry3: rest, next: rest, full: rest, fullAt: t0.Add(time.Hour)},
	}
	for _, c := range cases {
		s := l.Current(domain.State{Amount: c.used, At: t0.Add(time.Minute), TokenCredits: 1}, now)
		assert.Equal(t, domain.Tokens(c.used), l.Quota().Used(s))
		assert.Equal(t, c.remaining, l.Remaining(s), "Remaining at %d", c.used)
		assert.Equal(t, c.retry1, l.RetryAfter(s, 1, 0, now), "RetryAfter at %d", c.used)
		assert.Equal(t, c.retry3, l.RetryAfter(s, 3, 0, now), "RetryAfter at %d", c.used)
		assert.Equal(t, domain.Never, l.RetryAfter(s, 11, 0, now), "RetryAfter at %d", c.used)
		assert.Equal(t, c.next, l.NextToken(s, now), "NextToken at %d", c.used)
		assert.Equal(t, c.full, l.ResetAfter(s, now), "ResetAfter at %d", c.used)
		assert.Equal(t, c.fullAt, l.FullAt(s), "FullAt at %d", c.used)
	}
	assert.Equal(t, time.Hour, l.Window(now))
}

func TestQuota_usedAmountsOutOfRange(t *testing.T) {
	l := mustQuota(t, 10)
	for stored, want := range map[domain.Credits]domain.Credits{-1: 0, math.MaxInt64: 10 + domain.MaxCredits, 7: 7} {
		got := l.Current(domain.State{Amount: stored, At: t0, TokenCredits: 1}, t0.Add(time.Minute))
		assert.Equal(t, domain.State{Amount: want, At: t0, TokenCredits: 1}, got)
	}
	assert.Equal(t, domain.State{At: t0, TokenCredits: 1}, l.Full(t0))
	assert.Equal(t, l.Full(t0), l.Current(domain.State{}, t0))
}

func TestApply_writesOnlyWhatChangedOfAQuota(t *testing.T) {
	const hour = domain.Instant(3_600_000_000)
	story := []struct {
		op      domain.Op
		cost    domain.Tokens
		takenAt domain.Instant
		write   bool
	}{
		{domain.OpPeek, 0, 0, false},
		{domain.OpRefund, 1, 0, false}, // nothing is used
		{domain.OpTake, 4, 0, false},   // above the quota
		{domain.OpTake, 2, 0, true},
		{domain.OpTake, 2, 0, false},
		{domain.OpRefund, 1, t0 - 1, false}, // taken in the period before
		{domain.OpCharge, 1, t0 - 1, false},
		{domain.OpUndo, 1, t0 - 1, false},
		{domain.OpRefund, 1, t0, true},
		{domain.OpCharge, 1, t0 + hour, true}, // taken before the clock went back
		{domain.OpUndo, 1, 0, true},
		{domain.OpReset, 0, 0, true},
	}
	g := newGroup(mustQuota(t, 3))
	for i, s := range story {
		now := t0 + domain.Instant(i)
		_, states, write := g.applyTaken(s.op, s.cost, s.takenAt, now)
		assert.Equal(t, s.write, write, "step %d: %s %d", i, s.op, s.cost)
		if write && s.op != domain.OpReset {
			assert.Equal(t, now, states[0].At, "step %d: the time of the change", i)
		}
	}
}
