package domain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func FuzzParseRate(f *testing.F) {
	for _, seed := range []string{"5/s", "100/m", "10000/24h", "3/250ms", "1/1h30m", "1/.5s", "5/h30m", "-1/s", "1/", "/", "9223372036854775808/s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		refill, per, err := domain.ParseRate(in)
		if err != nil {
			require.ErrorIs(t, err, domain.ErrInvalidLimit)
			return
		}
		require.GreaterOrEqual(t, refill, domain.Tokens(0))
		require.GreaterOrEqual(t, per, time.Duration(0))
		again, perAgain, err := domain.ParseRate(domain.FormatRate(refill, per))
		require.NoError(t, err)
		require.Equal(t, refill, again)
		require.Equal(t, per, perAgain)
	})
}

func FuzzNewBucket(f *testing.F) {
	f.Add("burst", int64(10), int64(5), int64(time.Second))
	f.Add("", int64(1), int64(1), int64(1500))
	f.Add("", int64(domain.MaxTokens), int64(1), int64(1<<63-1))
	f.Add("", int64(1), int64(domain.MaxTokens), int64(1<<63-1))
	f.Add("A", int64(-1<<63), int64(-1<<63), int64(-1<<63))
	f.Fuzz(func(t *testing.T, name string, capacity, refill, per int64) {
		l, err := domain.NewBucket(name, domain.Tokens(capacity), domain.Tokens(refill), time.Duration(per))
		if err != nil {
			require.ErrorIs(t, err, domain.ErrInvalidLimit)
			require.True(t, l.IsZero())
			return
		}
		full := l.Full(t0)
		require.LessOrEqual(t, full.Amount, domain.MaxCredits)
		require.Equal(t, l.Capacity(), l.Remaining(full))
		require.Positive(t, l.TokenBucket().FillTime())
		require.LessOrEqual(t, l.TokenBucket().FillTime(), domain.MaxFill)
		require.NotEmpty(t, l.String())
	})
}

// Whatever a store may hold, in range, gives an answer that the model gives too, and a state in range.
func FuzzApply(f *testing.F) {
	const top = int64(domain.MaxCredits)
	f.Add(int64(10), int64(5), int64(time.Second), uint8(0), int64(1), int64(0), int64(t0), int64(200_000), int64(t0))
	f.Add(int64(1), int64(1), int64(domain.MaxFill), uint8(3), int64(domain.MaxCost), -top, int64(0), int64(1), int64(1<<53-1))
	f.Add(int64(domain.MaxTokens), int64(domain.MaxTokens), int64(us), uint8(2), int64(domain.MaxCost), top, int64(1<<53-1), top, int64(0))
	f.Add(int64(10_000_000_000), int64(7), int64(time.Second), uint8(0), int64(7), int64(-5), int64(t0), int64(3), int64(t0+1_999))
	f.Fuzz(func(t *testing.T, capacity, refill, per int64, op uint8, cost, credits, at, p, now int64) {
		l, err := domain.NewBucket("burst", domain.Tokens(capacity), domain.Tokens(refill), time.Duration(per))
		if err != nil || domain.Op(op) > domain.OpSettle || domain.Op(op).CheckCost(domain.Tokens(cost)) != nil ||
			credits < -top || credits > top || p < 1 || p > top || at < 0 || at >= 1<<53 || now < 0 || now >= 1<<53 {
			return
		}
		g := newGroup(l)
		g.stored[0] = domain.State{Amount: domain.Credits(credits), At: domain.Instant(at), TokenCredits: domain.Credits(p)}
		requireAsModel(t, g, domain.Operation{Op: domain.Op(op), Cost: domain.Tokens(cost)}, domain.Instant(now))
		requireInRange(t, &l, l.Current(g.stored[0], domain.Instant(now)), domain.Tokens(cost), domain.Instant(now))
	})
}

// Whatever a store may hold of a quota and of its bucket, and whenever tokens were taken.
func FuzzApply_quota(f *testing.F) {
	const top = int64(domain.MaxCredits)
	f.Add(int64(10), int64(3_600_000_000), int64(0), uint8(0), int64(1), int64(10), int64(t0), int64(0), int64(t0))
	f.Add(int64(1), int64(4_000_000), int64(1), uint8(5), int64(domain.MaxCost), int64(-1), int64(t0), int64(t0-5_000_000), int64(t0+1))
	f.Add(int64(domain.MaxTokens), int64(4_000_000), int64(3), uint8(3), int64(domain.MaxCost), top, int64(1<<53-1), int64(1), int64(0))
	f.Fuzz(func(t *testing.T, size, length, own int64, op uint8, cost, used, at, takenAt, now int64) {
		if length < 4_000_000 || length > domain.MaxFill.Microseconds() || domain.Op(op) > domain.OpSettle ||
			domain.Op(op).CheckCost(domain.Tokens(cost)) != nil || at < 0 || at >= 1<<53 || takenAt < 0 || now < 0 || now >= 1<<53 {
			return
		}
		l, err := domain.NewQuota("q", domain.Tokens(size), uneven{domain.Instant(length &^ 3)})
		if err != nil {
			require.ErrorIs(t, err, domain.ErrInvalidLimit)
			return
		}
		if own != 0 {
			if l, err = l.WithCost(domain.Tokens(own)); err != nil {
				require.ErrorIs(t, err, domain.ErrInvalidLimit)
				return
			}
		}
		g := newGroup(l, mustLimit(t, "5/s", 10))
		g.stored[0] = domain.State{Amount: domain.Credits(used), At: domain.Instant(at), TokenCredits: 1}
		requireAsModel(t, g, domain.Operation{
			Op: domain.Op(op), Cost: domain.Tokens(cost), TakenAt: domain.Instant(takenAt),
		}, domain.Instant(now))
		s := l.Current(g.stored[0], domain.Instant(now))
		require.GreaterOrEqual(t, s.Amount, domain.Credits(0))
		require.LessOrEqual(t, s.Amount, domain.MaxCredits+domain.Credits(size))
		requireWaits(t, &l, s, domain.Tokens(cost), domain.Instant(now))
		require.LessOrEqual(t, l.ResetAfter(s, domain.Instant(now)), l.Window(domain.Instant(now)))
	})
}

func requireInRange(t *testing.T, l *domain.Limit, b domain.State, cost domain.Tokens, now domain.Instant) {
	t.Helper()
	require.GreaterOrEqual(t, b.Amount, -domain.MaxCredits)
	require.LessOrEqual(t, b.Amount, l.Full(now).Amount)
	require.Equal(t, l.TokenBucket().TokenCredits(), b.TokenCredits)
	require.LessOrEqual(t, b.At, now)
	require.Less(t, int64(now-b.At), l.TokenBucket().TickMicros())
	require.Equal(t, l.FullAt(b), now.Add(l.ResetAfter(b, now)))
	require.LessOrEqual(t, l.ResetAfter(b, now), 2*domain.MaxFill)
	requireWaits(t, l, b, cost, now)
}

func requireWaits(t *testing.T, l *domain.Limit, b domain.State, cost domain.Tokens, now domain.Instant) {
	t.Helper()
	require.LessOrEqual(t, l.NextToken(b, now), l.ResetAfter(b, now))
	if wait := l.RetryAfter(b, cost, 0, now); wait != domain.Never {
		require.GreaterOrEqual(t, wait, time.Duration(0))
		require.Equal(t, l.CanPay(b, cost), wait == 0)
	}
}
