package domain

import (
	"math/bits"
	"time"
)

// Tokens counts whole tokens: the capacity of a limit, what is left of it, the cost of a request. It is
// negative only for what a charge took below zero.
type Tokens int64

// Credits counts fractions of a token. States are stored in credits. The number of credits in a token of a bucket
// depends on its limit, see [TokenBucket.TokenCredits]. A quota has 1 credit in a token.
type Credits int64

// Instant is a point in time by a store's own clock, in microseconds since the Unix epoch. Instants of two
// stores must not be compared. The zero value is the epoch itself.
type Instant int64

const (
	// MaxTokens bounds a bucket's Capacity and Refill, and a quota.
	MaxTokens Tokens = 1_000_000_000_000
	// MaxCost is the highest cost of one request, in tokens.
	MaxCost Tokens = 1<<31 - 1
	// MaxCredits bounds a level above and below zero, and the debt of a quota, so that the difference of two levels and
	// the used part of a quota are at most 2^53. A double represents every integer up to 2^53.
	MaxCredits Credits = 1 << 52
	// MaxFill is 100 years of 365 days. It bounds the time in which an empty bucket fills, and the time in
	// which a bucket below zero refills to zero.
	MaxFill = 100 * 365 * 24 * time.Hour
	// Never is the wait of a request whose cost is above the capacity: it cannot pass at any time.
	Never time.Duration = -1
)

func maxFillTicks(tickMicros int64) int64 { return MaxFill.Microseconds() / tickMicros }

// InstantOf converts a time, truncated to microseconds.
func InstantOf(t time.Time) Instant { return Instant(t.UnixMicro()) }

// Time converts to a time.Time in UTC.
func (i Instant) Time() time.Time { return time.UnixMicro(int64(i)).UTC() }

// Add returns the instant d later. d is truncated to microseconds.
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

// mulDiv returns floor(a*b/c), computed with a 128-bit product. It requires 0 <= a < c and b >= 0.
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
