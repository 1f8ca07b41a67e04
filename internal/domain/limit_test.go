package domain_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
)

// isFieldError reports whether one of the errors joined in err is a FieldError of that kind about that field.
func isFieldError(err, kind error, field string) bool {
	for _, e := range domain.FieldErrors(err) {
		if errors.Is(e, kind) && e.Field == field {
			return true
		}
	}
	return false
}

func TestNewLimit_worksOutItsArithmetic(t *testing.T) {
	cases := []struct {
		rate         string
		capacity     domain.Tokens
		tickMicros   int64
		tokenCredits domain.Credits
		tickCredits  domain.Credits
		fillTime     time.Duration
	}{
		{"5/s", 10, 1, 200_000, 1, 2 * time.Second},
		{"1000000/s", 10, 1, 1, 1, 10 * us},
		{"2000000/s", 10, 1, 1, 2, 5 * us},
		{"2000000/s", 9, 1, 1, 2, 5 * us}, // 4.5, rounded up
		{"3/250ms", 3, 1, 250_000, 3, 250 * ms},
		{"10000/24h", 10_000, 1, 8_640_000, 1, 24 * time.Hour},
		{"7/s", 4_503_599_627, 1, 1_000_000, 7, 643_371_375_285_715 * us}, // the largest capacity that us can count
		{"7/s", 4_503_599_628, 1000, 1000, 7, 643_371_375_429 * ms},
		{"1000000000000/us", 1_000_000_000_000, 1, 1, 1_000_000_000_000, us},
		{"1000000000000/us", 1, 1, 1, 1_000_000_000_000, us},
		{"1/876000h", 1, 1, 3_153_600_000_000_000, 1, domain.MaxFill},
		{"1000000000000/876000h", 1_000_000_000_000, 1000, 1971, 625, domain.MaxFill},
	}
	for _, c := range cases {
		l := mustLimit(t, c.rate, c.capacity)
		assert.Equal(t, c.tickMicros, l.TokenBucket().TickMicros(), "tick of %s", l.String())
		assert.Equal(t, c.tokenCredits, l.TokenBucket().TokenCredits(), "token of %s", l.String())
		assert.Equal(t, c.tickCredits, l.TokenBucket().TickCredits(), "refill of %s", l.String())
		assert.Equal(t, c.fillTime, l.TokenBucket().FillTime(), "fill time of %s", l.String())
	}
}

func TestNewLimit_keepsWhatItWasGiven(t *testing.T) {
	l, err := domain.NewBucket("burst", 10, 10, 2*time.Second)
	require.NoError(t, err)
	assert.Equal(t, "burst", l.Name())
	assert.Equal(t, domain.Tokens(10), l.Capacity())
	refill, per := l.TokenBucket().Rate()
	assert.Equal(t, domain.Tokens(10), refill, "as configured, not as reduced")
	assert.Equal(t, 2*time.Second, per)
	assert.Equal(t, domain.KindTokenBucket, l.Kind())
	assert.Equal(t, "burst: 10/2s, capacity 10", l.String())
	assert.False(t, l.IsZero())
}

func TestNewLimit_namesEveryFieldThatIsWrong(t *testing.T) {
	const most = domain.MaxTokens
	cases := []struct {
		name             string
		capacity, refill domain.Tokens
		per              time.Duration
		fields           []string
	}{
		{"burst", 0, 1, time.Second, []string{"capacity"}},
		{"burst", most + 1, 1, time.Second, []string{"capacity"}},
		{"burst", 1, 0, time.Second, []string{"rate"}},
		{"burst", 1, -5, time.Second, []string{"rate"}},
		{"burst", 1, most + 1, time.Second, []string{"rate"}},
		{"burst", 1, 1, 0, []string{"rate"}},
		{"burst", 1, 1, -time.Second, []string{"rate"}},
		{"burst", 1, 1, us - 1, []string{"rate"}},
		{"burst", 1, 1, 1500 * time.Nanosecond, []string{"rate"}},
		{"burst", most, 1, time.Hour, []string{"rate"}},
		{"burst", 1, 1, domain.MaxFill + us, []string{"rate"}},
		{"burst", math.MinInt64, math.MinInt64, math.MinInt64, []string{"capacity", "rate", "rate"}},
		{"burst", math.MaxInt64, math.MaxInt64, math.MaxInt64, []string{"capacity", "rate"}},
		{"", 1, 1, time.Second, []string{"name"}},
		{"Burst", 0, 0, 0, []string{"name", "capacity", "rate", "rate"}},
	}
	for _, c := range cases {
		l, err := domain.NewBucket(c.name, c.capacity, c.refill, c.per)
		var fields []string
		for _, e := range domain.FieldErrors(err) {
			require.ErrorIs(t, e, domain.ErrInvalidLimit)
			fields = append(fields, e.Field)
		}
		assert.Equal(t, c.fields, fields, "%q %d %d %s: %v", c.name, c.capacity, c.refill, c.per, err)
		assert.True(t, l.IsZero())
	}
}

func TestNewLimit_aTimeBelowAMicrosecondIsNoQuestionOfTheNearestRate(t *testing.T) {
	_, err := domain.NewBucket("burst", 1, 1, us-1)
	require.EqualError(t, err, "rate: 999ns: the time must be at least 1us")
}

func TestWithCost(t *testing.T) {
	l := mustLimit(t, "5/s", 10)
	for _, cost := range []domain.Tokens{1, 10} {
		with, err := l.WithCost(cost)
		require.NoError(t, err)
		assert.Equal(t, cost, with.Cost())
		assert.Equal(t, cost, with.CostOf(1))
		assert.Equal(t, cost, with.CostOf(99))
		assert.Zero(t, with.CostOf(0), "a peek costs nothing")
	}
	assert.Zero(t, l.Cost(), "the limit itself has not changed")
	assert.Equal(t, domain.Tokens(99), l.CostOf(99))
	large := mustLimit(t, "1/s", domain.MaxCost+1)
	for cost, want := range map[domain.Tokens]string{
		0:  "cost: 0: must be from 1 to 10, the capacity of l",
		-1: "cost: -1: must be from 1 to 10, the capacity of l",
		11: "cost: 11: must be from 1 to 10, the capacity of l",
	} {
		with, err := l.WithCost(cost)
		require.EqualError(t, err, want)
		require.ErrorIs(t, err, domain.ErrInvalidLimit)
		assert.True(t, with.IsZero())
	}
	_, err := large.WithCost(domain.MaxCost + 1)
	require.EqualError(t, err, "cost: 2147483648: must be from 1 to 2147483647")
	bucket, quota := mustCost(t, l, 2), mustCost(t, mustQuota(t, 3), 2)
	assert.Equal(t, "l: 5/s, capacity 10, cost 2", bucket.String())
	assert.Equal(t, "q: quota 3/1h from 2023-11-14T22:13:20Z, cost 2", quota.String())
}

// A request passes by what it costs the limit, not by what it says.
func TestCanPay_countsTheLimitsOwnCost(t *testing.T) {
	for _, l := range []domain.Limit{mustCost(t, mustLimit(t, "1/h", 5), 2), mustCost(t, mustQuota(t, 5), 2)} {
		playStory(t, l, []step{
			{cost: 99, want: allowed(3)},
			{cost: 1, want: allowed(1)},
			{cost: 0, want: allowed(1)},
			{cost: 1, want: denied(1, time.Hour)},
			{op: domain.OpRefund, cost: 9, want: allowed(1)},
			{op: domain.OpCharge, cost: 9, want: allowed(1)},
			{op: domain.OpUndo, cost: 9, want: allowed(3)},
			{op: domain.OpReset, want: allowed(5)},
		})
	}
}

func TestEqual(t *testing.T) {
	quota := func(period, anchor string) domain.Limit {
		periods, err := calendar.Parse(period, "", anchor)
		require.NoError(t, err)
		l, err := domain.NewQuota("l", 10, periods)
		require.NoError(t, err)
		return l
	}
	make24h := func(anchor string) domain.Limit { return quota("24h", anchor) }
	other, err := domain.NewBucket("other", 10, 5, time.Second)
	require.NoError(t, err)
	different := []domain.Limit{
		{},
		mustLimit(t, "5/s", 10), mustLimit(t, "5/s", 11), mustLimit(t, "6/s", 10), mustLimit(t, "10/2s", 10), other,
		mustCost(t, mustLimit(t, "5/s", 10), 1), mustCost(t, mustLimit(t, "5/s", 10), 2),
		make24h(""), make24h("2026-01-01"), mustCost(t, make24h(""), 1),
	}
	for i := range different {
		for j := range different {
			assert.Equal(t, i == j, different[i].Equal(different[j]), "%d and %d", i, j)
		}
	}
	assert.True(t, mustLimit(t, "5/s", 10).Equal(mustLimit(t, "5/s", 10)))
	assert.True(t, make24h("2026-01-01").Equal(make24h("2026-01-01")), "two schedules that say the same")
	for _, period := range []string{"24h0m0s", "1440m", "86400s"} {
		assert.True(t, make24h("").Equal(quota(period, "")), "%s is 24h", period)
	}
	assert.True(t, domain.EqualLimits(nil, []domain.Limit{}))
	assert.True(t, domain.EqualLimits(different, different))
	assert.True(t, domain.EqualLimits(different[1:], slices.Clone(different[1:])))
	assert.False(t, domain.EqualLimits(different[1:3], different[1:2]))
	assert.False(t, domain.EqualLimits(different[1:3], different[2:4]))
	q := make24h("")
	larger, err := domain.NewQuota("l", 11, q.Quota().Periods())
	require.NoError(t, err)
	assert.False(t, q.Equal(larger))
}

func TestLimit_zeroValue(t *testing.T) {
	var l domain.Limit
	assert.True(t, l.IsZero())
	assert.Zero(t, l.Kind())
	assert.Zero(t, l.Cost())
	assert.Empty(t, l.Name())
}

func TestKind_names(t *testing.T) {
	assert.Equal(t, "bucket", domain.KindTokenBucket.String())
	assert.Equal(t, "quota", domain.KindQuota.String())
	assert.Equal(t, "kind(0)", domain.Kind(0).String())
}

func TestValidName(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, good := range []string{"a", "0", "a-b_c", "9-", long} {
		assert.True(t, domain.ValidName(good), good)
	}
	for _, bad := range []string{"", "-a", "_a", "A", "a b", "a:b", "a{b", "a=b", "a\n", "ä", long + "a"} {
		assert.False(t, domain.ValidName(bad), bad)
	}
}

func TestFieldError_showsTheFieldTheValueAndTheRule(t *testing.T) {
	shown := &domain.FieldError{Kind: domain.ErrInvalidPolicy, Field: "name", Value: `"A"`, Reason: "must be lower case"}
	require.EqualError(t, shown, `name: "A": must be lower case`)
	secret := &domain.FieldError{Kind: domain.ErrInvalidPolicy, Field: "token", Reason: "is too short"}
	require.EqualError(t, secret, "token: is too short")
	assert.ErrorIs(t, secret, domain.ErrInvalidPolicy)
}
