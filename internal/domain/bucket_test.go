package domain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestRetryAfter_isEnoughAndAMicrosecondLessIsNot(t *testing.T) {
	limits := []domain.Limit{
		mustLimit(t, "5/s", 7),
		mustLimit(t, "1/3s", 7),
		mustLimit(t, "3/250ms", 7),
		mustLimit(t, "7/13ms", 7),
		mustLimit(t, "9999/1000003us", 7),
		mustLimit(t, "1/87600h", 7),
		mustLimit(t, "7/s", 10_000_000_000),
	}
	for _, l := range limits {
		for cost := domain.Tokens(1); cost <= 7; cost++ {
			g := newGroup(l)
			g.stored[0] = domain.State{Amount: 0, At: t0 + 1, TokenCredits: l.TokenBucket().TokenCredits()}
			now := t0 + 14 // off the grid of ticks, where a rounding the wrong way would show
			verdict, buckets, _ := g.apply(domain.OpTake, cost, now)
			require.Equal(t, domain.Denied, verdict, "%s, cost %d", l.String(), cost)
			wait := l.RetryAfter(buckets[0], cost, 0, now)
			require.Positive(t, wait, "%s, cost %d", l.String(), cost)
			verdict, _, _ = g.apply(domain.OpTake, cost, now.Add(wait-us))
			require.Equal(t, domain.Denied, verdict, "%s, cost %d", l.String(), cost)
			verdict, _, _ = g.apply(domain.OpTake, cost, now.Add(wait))
			require.Equal(t, domain.Allowed, verdict, "%s, cost %d", l.String(), cost)
		}
	}
}

func TestWaits_roundUpAndRemainingRoundsDown(t *testing.T) {
	l := mustLimit(t, "3/10us", 3) // a token is 10 credits, a microsecond brings 3
	cases := []struct {
		credits              domain.Credits
		remaining            domain.Tokens
		retry1, next, refill time.Duration
	}{
		{credits: 30, remaining: 3},
		{credits: 29, remaining: 2, next: 1 * us, refill: 1 * us},
		{credits: 20, remaining: 2, next: 4 * us, refill: 4 * us},
		{credits: 10, remaining: 1, next: 4 * us, refill: 7 * us},
		{credits: 9, remaining: 0, retry1: 1 * us, next: 1 * us, refill: 7 * us},
		{credits: 0, remaining: 0, retry1: 4 * us, next: 4 * us, refill: 10 * us},
		{credits: -1, remaining: -1, retry1: 4 * us, next: 4 * us, refill: 11 * us},
		{credits: -10, remaining: -1, retry1: 7 * us, next: 7 * us, refill: 14 * us},
		{credits: -11, remaining: -2, retry1: 7 * us, next: 7 * us, refill: 14 * us},
	}
	for _, c := range cases {
		b := domain.State{Amount: c.credits, At: t0, TokenCredits: 10}
		assert.Equal(t, c.remaining, l.Remaining(b), "Remaining at %d", c.credits)
		assert.Equal(t, c.retry1, l.RetryAfter(b, 1, 0, t0), "RetryAfter at %d", c.credits)
		assert.Equal(t, c.next, l.NextToken(b, t0), "NextToken at %d", c.credits)
		assert.Equal(t, c.refill, l.ResetAfter(b, t0), "ResetAfter at %d", c.credits)
		assert.Equal(t, t0.Add(c.refill), l.FullAt(b), "FullAt at %d", c.credits)
	}
	assert.Equal(t, domain.Never, l.RetryAfter(l.Full(t0), 4, 0, t0))
	assert.Equal(t, 10*us, l.TokenBucket().FillTime())
}

func TestWaits_countFromNowAndNotFromTheTick(t *testing.T) {
	l := mustLimit(t, "7/s", 10_000_000_000) // a tick is 1 ms
	b := l.Current(domain.State{Amount: 0, At: t0, TokenCredits: l.TokenBucket().TokenCredits()}, t0+1_999)
	assert.Equal(t, t0+1_000, b.At)
	// A token is 1000 credits and comes in 143 ticks, of which 1.999 have passed.
	assert.Equal(t, 143_000*us-1_999*us, l.RetryAfter(b, 1, 0, t0+1_999))
	assert.Equal(t, 143_000*us-1_999*us, l.NextToken(b, t0+1_999))
	assert.Equal(t, l.TokenBucket().FillTime()-1_999*us, l.ResetAfter(b, t0+1_999))
}

func TestRefillTo_zeroBucketIsFull(t *testing.T) {
	l := mustLimit(t, "5/s", 3)
	assert.Equal(t, l.Full(t0), l.Current(domain.State{}, t0))
	assert.Equal(t, domain.State{Amount: 600_000, At: t0, TokenCredits: 200_000}, l.Full(t0))
}

func TestRefillTo_aFullBucketKeepsNoFraction(t *testing.T) {
	l := mustLimit(t, "7/s", 10_000_000_000)
	b := l.Full(t0)
	assert.Equal(t, t0+999, l.Current(b, t0+999).At, "its time is now, though no whole tick has passed")
}

func TestRefillTo_doesNotOverflowAtTheEdges(t *testing.T) {
	limits := map[string]domain.Limit{
		"fast":           mustLimit(t, "1000000000000/us", 1_000_000_000_000),
		"slow":           mustLimit(t, "1/876000h", 1),
		"slow and large": mustLimit(t, "1000000000000/876000h", 1_000_000_000_000),
		"huge credits":   mustLimit(t, "999999999999/1000000001us", 4_503_599),
		"coarse":         mustLimit(t, "7/s", 4_503_599_627_370>>9),
	}
	for name, l := range limits {
		t.Run(name, func(t *testing.T) {
			const end = domain.Instant(1<<53 - 1)
			least := domain.State{Amount: -domain.MaxCredits, At: 0, TokenCredits: l.TokenBucket().TokenCredits()}
			atOnce := l.Current(least, 0)
			assert.GreaterOrEqual(t, atOnce.Amount, -domain.MaxCredits)
			assert.Positive(t, l.ResetAfter(atOnce, 0))
			assert.LessOrEqual(t, l.ResetAfter(atOnce, 0), 2*domain.MaxFill)
			assert.Equal(t, l.Full(end), l.Current(least, end))
			full := domain.Instant(l.ResetAfter(atOnce, 0).Microseconds())
			assert.NotEqual(t, l.Full(full-1), l.Current(least, full-1))
			assert.Equal(t, l.Full(full), l.Current(least, full))
		})
	}
}
