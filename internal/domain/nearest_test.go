package domain_test

import (
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// fataler is what testing.T and rapid.T have in common, as far as require needs it.
type fataler interface {
	require.TestingT
	Helper()
}

// nearestOf returns the rate that the refusal names.
func nearestOf(t fataler, err error) (domain.Tokens, time.Duration) {
	t.Helper()
	require.ErrorIs(t, err, domain.ErrInvalidLimit)
	_, rate, found := strings.Cut(err.Error(), "the nearest rate that fits is ")
	require.True(t, found, "%v", err)
	refill, per, err := domain.ParseRate(rate)
	require.NoError(t, err)
	return refill, per
}

func TestNewLimit_refusalNamesTheNearestRate(t *testing.T) {
	cases := []struct {
		rate     string
		capacity domain.Tokens
		nearest  string
	}{
		{"2/1500ns", 10, "4/3us"},                                 // per is no whole number of microseconds
		{"1/900000h", 1, "1/876000h"},                             // takes over 100 years
		{"1/24h", 1_000_000, "1/3153600ms"},                       // a million tokens in 100 years
		{"1/24h", 1_000_000_000_000, "625/1971ms"},                // 3.1536 ms a token: no whole number of us
		{"7000000001/5s", 1_000_000_000_000, "6304200001/4503ms"}, // a token is worth 4503 credits at most
		{"7000000001/5000000000ms", 1_000_000_000_000, "7/5ms"},   // no fraction in us comes as close
	}
	for _, c := range cases {
		refill, per, err := domain.ParseRate(c.rate)
		require.NoError(t, err)
		_, err = domain.NewBucket("burst", c.capacity, refill, per)
		near, nearPer := nearestOf(t, err)
		assert.Equal(t, c.nearest, domain.FormatRate(near, nearPer), c.rate)
	}
}

func TestNewLimit_acceptsTheNearestRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := domain.Tokens(rapid.Int64Range(1, int64(domain.MaxTokens)).Draw(t, "capacity"))
		refill := domain.Tokens(rapid.Int64Range(1, int64(domain.MaxTokens)).Draw(t, "refill"))
		per := time.Duration(rapid.Int64Range(int64(us), 1<<63-1).Draw(t, "per"))
		if _, err := domain.NewBucket("burst", capacity, refill, per); err != nil {
			near, nearPer := nearestOf(t, err)
			_, err := domain.NewBucket("burst", capacity, near, nearPer)
			require.NoError(t, err)
		}
	})
}

// With the largest capacity a token is worth at most 4503 credits, so that every rate can be tried.
func TestNewLimit_noRateIsNearerThanTheNearest(t *testing.T) {
	const capacity = domain.MaxTokens
	wants := []string{
		"1/24h", "1/5001us", "7/5001us", "7000000001/5000000000ms", "999999999999/1000003us",
		"1001/4519us", "355/113000007us", "1/3154us", "1000000000000/4507us", "123456789/9876543ms", "5/1577501ns",
	}
	for _, rate := range wants {
		refill, per, err := domain.ParseRate(rate)
		require.NoError(t, err)
		_, err = domain.NewBucket("burst", capacity, refill, per)
		want := ratPer(refill, per)
		named := ratPer(nearestOf(t, err))
		assert.Zero(t, distance(bruteForceNearest(capacity, want), want).Cmp(distance(named, want)), rate)
	}
}

func bruteForceNearest(capacity domain.Tokens, want *big.Rat) (nearest *big.Rat) {
	for _, tick := range []time.Duration{us, ms} {
		for ticks := int64(1); ticks <= int64(domain.MaxCredits)/int64(capacity); ticks++ {
			per := time.Duration(ticks) * tick
			exact := new(big.Rat).Mul(want, new(big.Rat).SetInt64(int64(per)))
			below := domain.Tokens(new(big.Int).Quo(exact.Num(), exact.Denom()).Int64())
			// The slowest that fills in time: refill >= capacity * per / MaxFill, here divided by 10^9 throughout.
			const fill = int64(domain.MaxFill/us) / 1_000_000_000
			least := domain.Tokens((int64(capacity)/1_000_000_000*int64(per/us) + fill - 1) / fill)
			for _, refill := range []domain.Tokens{below, below + 1, least} {
				rate := ratPer(refill, per)
				if nearest != nil && distance(rate, want).Cmp(distance(nearest, want)) >= 0 {
					continue
				}
				if _, err := domain.NewBucket("burst", capacity, refill, per); err == nil {
					nearest = rate
				}
			}
		}
	}
	return nearest
}

// ratPer is a rate in tokens per nanosecond.
func ratPer(refill domain.Tokens, per time.Duration) *big.Rat {
	return big.NewRat(int64(refill), int64(per))
}

func distance(a, b *big.Rat) *big.Rat {
	d := new(big.Rat).Sub(a, b)
	return d.Abs(d)
}
