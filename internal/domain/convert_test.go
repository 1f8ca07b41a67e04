package domain_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// What happens to a bucket whose limit changes: p is what a token is worth in credits.
func TestRefillTo_aChangedLimitKeepsTheTokens(t *testing.T) {
	const top = int64(domain.MaxCredits)
	cases := []struct {
		name     string
		rate     string
		capacity domain.Tokens
		p        int64 // of the stored bucket
		credits  int64
		want     int64
	}{
		{"whole tokens, p grows", "1/10us", 5, 3, 2 * 3, 20},
		{"whole tokens, p shrinks", "1/3us", 5, 10, 2 * 10, 6},
		{"a fraction is rounded down", "1/10us", 5, 3, 2*3 + 1, 23},
		{"a fraction that vanishes", "1/3us", 5, 10, 2*10 + 3, 6},
		{"nearly a token stays below it", "1/3us", 5, 10, 2*10 + 9, 8},
		{"a smaller capacity", "1/10us", 5, 3, 9 * 3, 50},
		{"just below a smaller capacity", "1/10us", 5, 3, 5*3 - 1, 46},
		{"a larger capacity fills nothing", "1/10us", 500, 3, 9 * 3, 90},
		{"the same p, a smaller capacity", "1/10us", 5, 10, 70, 50},
		{"the same p, a larger capacity", "1/10us", 500, 10, 70, 70},
		{"a whole debt", "1/10us", 5, 3, -2 * 3, -20},
		{"a debt's fraction is rounded down too", "1/10us", 5, 3, -2*3 - 1, -24},
		{"the least debt", "1/10us", 5, 1 << 52, -1, -1},
		{"an empty bucket", "1/10us", 5, 3, 0, 0},
		{"p from 1 to the largest", "999999999999/4503599627370495us", 1, 1, 0, 0},
		{"the largest fraction, the largest p", "1/3153600000000000us", 1, top, top - 1, 3153599999999999},
		{"a level beyond the largest p", "1/3153600000000000us", 1, 1, top, 3153600000000000},
		{"a debt beyond the bound", "1/24h", 1, 1, -top, -3153600000000000},
		{"a debt at the bound", "1/24h", 1, 1, -36_500, -3153600000000000},
		{"a debt just within the bound", "1/24h", 1, 1 << 30, -36_499 << 30, -36_499 * 86_400_000_000},
		{"the same p, a debt beyond the bound", "1/24h", 1, 86_400_000_000, -top, -3153600000000000},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := mustLimit(t, c.rate, c.capacity)
			stored := domain.State{Amount: domain.Credits(c.credits), At: t0, TokenCredits: domain.Credits(c.p)}
			want := domain.State{Amount: domain.Credits(c.want), At: t0, TokenCredits: l.TokenBucket().TokenCredits()}
			assert.Equal(t, want, l.Current(stored, t0))
			assert.Equal(t, want, l.Current(want, t0), "a converted bucket stays as it is")
		})
	}
}

func TestRefillTo_aChangedTickKeepsTheTimeThatHasPassed(t *testing.T) {
	coarse, fine := mustLimit(t, "7/s", 10_000_000_000), mustLimit(t, "1/us", 1_000_000)
	b := domain.State{Amount: 0, At: t0, TokenCredits: coarse.TokenBucket().TokenCredits()}
	// A whole millisecond was refilled at the old rate, 0.007 tokens; the rest at the new one.
	seen := fine.Current(coarse.Current(b, t0+1_999), t0+1_999)
	assert.Equal(t, domain.Tokens(999), fine.Remaining(seen))
}
