package domain_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// isFieldError reports whether one of the errors joined in err is a FieldError of that kind about that field.
func isFieldError(err, kind error, field string) bool {
	for _, e := range fieldErrors(err) {
		if errors.Is(e, kind) && e.Field == field {
			return true
		}
	}
	return false
}

func fieldErrors(err error) (all []*domain.FieldError) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			all = append(all, fieldErrors(e)...)
		}
		return all
	}
	if one := (*domain.FieldError)(nil); errors.As(err, &one) {
		all = append(all, one)
	}
	return all
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
		assert.Equal(t, c.tickMicros, l.TickMicros(), "tick of %s", l.String())
		assert.Equal(t, c.tokenCredits, l.TokenCredits(), "token of %s", l.String())
		assert.Equal(t, c.tickCredits, l.TickCredits(), "refill of %s", l.String())
		assert.Equal(t, c.fillTime, l.FillTime(), "fill time of %s", l.String())
	}
}

func TestNewLimit_keepsWhatItWasGiven(t *testing.T) {
	l, err := domain.NewLimit("burst", 10, 10, 2*time.Second)
	require.NoError(t, err)
	assert.Equal(t, "burst", l.Name())
	assert.Equal(t, domain.Tokens(10), l.Capacity())
	refill, per := l.Rate()
	assert.Equal(t, domain.Tokens(10), refill, "as configured, not as reduced")
	assert.Equal(t, 2*time.Second, per)
	assert.Equal(t, domain.KindTokenBucket, l.Kind())
	assert.Equal(t, "burst: 10/2s, capacity 10", l.String())
	assert.False(t, l.IsZero())

	l, err = domain.NewLimit("", 1, 1, time.Second)
	require.NoError(t, err)
	assert.Equal(t, domain.DefaultLimitName, l.Name())
}

func TestNewLimit_namesEveryFieldThatIsWrong(t *testing.T) {
	const most = domain.MaxTokens
	cases := []struct {
		name             string
		capacity, refill domain.Tokens
		per              time.Duration
		fields           []string
	}{
		{"", 0, 1, time.Second, []string{"capacity"}},
		{"", most + 1, 1, time.Second, []string{"capacity"}},
		{"", 1, 0, time.Second, []string{"rate"}},
		{"", 1, -5, time.Second, []string{"rate"}},
		{"", 1, most + 1, time.Second, []string{"rate"}},
		{"", 1, 1, 0, []string{"rate"}},
		{"", 1, 1, -time.Second, []string{"rate"}},
		{"", 1, 1, us - 1, []string{"rate"}},
		{"", 1, 1, 1500 * time.Nanosecond, []string{"rate"}},
		{"", most, 1, time.Hour, []string{"rate"}},
		{"", 1, 1, domain.MaxFill + us, []string{"rate"}},
		{"", math.MinInt64, math.MinInt64, math.MinInt64, []string{"capacity", "rate", "rate"}},
		{"", math.MaxInt64, math.MaxInt64, math.MaxInt64, []string{"capacity", "rate"}},
		{"Burst", 0, 0, 0, []string{"name", "capacity", "rate", "rate"}},
	}
	for _, c := range cases {
		l, err := domain.NewLimit(c.name, c.capacity, c.refill, c.per)
		var fields []string
		for _, e := range fieldErrors(err) {
			require.ErrorIs(t, e, domain.ErrInvalidLimit)
			fields = append(fields, e.Field)
		}
		assert.Equal(t, c.fields, fields, "%q %d %d %s: %v", c.name, c.capacity, c.refill, c.per, err)
		assert.True(t, l.IsZero())
	}
}

func TestNewLimit_aTimeBelowAMicrosecondIsNoQuestionOfTheNearestRate(t *testing.T) {
	_, err := domain.NewLimit("", 1, 1, us-1)
	require.EqualError(t, err, "rate: 999ns: the time must be at least 1us")
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
