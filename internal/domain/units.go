package domain

import (
	"math/bits"
	"time"
)

// Tokens counts whole tokens: what a limit holds and what a request costs. Negative only in a level that a
// charge has taken below zero.
type Tokens int64

// Credits counts the fractions of a token in which a level is kept. What one token is worth in credits
// depends on the limit: see [Limit.TokenCredits].
type Credits int64

// Instant is a point in time by a store's own clock, in microseconds since the Unix epoch. Instants of two
// stores must not be compared. The zero value is the epoch itself.
type Instant int64

const (
	// MaxTokens bounds Capacity and Refill of a limit.
	MaxTokens Tokens = 1_000_000_000_000
	// MaxCost is the highest cost of one request, in tokens.
	MaxCost Tokens = 1<<31 - 1
	// MaxCredits bounds a level on both sides, so that the difference of two levels is at most 2^53: the
	// last integer to which a double counts without a gap.
	MaxCredits Credits = 1 << 52
	// MaxFill is the longest time in which an empty bucket may fill, and the longest time of refilling that
	// a charge may take it below zero: 100 years of 365 days.
	MaxFill = 100 * 365 * 24 * time.Hour
	// Never is the wait of a request that no waiting helps: its cost is above the capacity.
	Never time.Duration = -1
)

// InstantOf converts a time, cutting what is finer than a microsecond.
func InstantOf(t time.Time) Instant { return Instant(t.UnixMicro()) }

// Time converts to a time.Time in UTC.
func (i Instant) Time() time.Time { return time.UnixMicro(int64(i)).UTC() }

// Add returns the instant d later; what is finer than a microsecond is cut.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d.Microseconds()) }

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i-j) * time.Microsecond }

// floorDiv rounds towards minus infinity; b > 0.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// ceilDiv rounds towards plus infinity; b > 0.
func ceilDiv(a, b int64) int64 {
	q := a / b
	if a%b > 0 {
		q++
	}
	return q
}

// mulDiv returns floor(a*b/c) by way of a 128-bit product; 0 <= a < c and b >= 0, so it fits.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(q)
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
