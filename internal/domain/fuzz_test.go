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

func FuzzParseKeySource(f *testing.F) {
	for _, seed := range []string{"ip", "header:X-Tenant", "header:", "header:x=y", "header:x:y", "header:{x}", "IP", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		source, err := domain.ParseKeySource(in)
		if err != nil {
			require.ErrorIs(t, err, domain.ErrInvalidPolicy)
			return
		}
		again, err := domain.ParseKeySource(source.String())
		require.NoError(t, err)
		require.Equal(t, source, again)
		requireSafeKey(t, domain.NewBucketKey("default", source, in))
	})
}

func FuzzNewBucketKey(f *testing.F) {
	hashed := string(domain.NewBucketKey("", byIP, string(make([]byte, 300))))
	f.Add("default", "ip", "a", "default", "header:ip", "a")
	f.Add("default", "header:a", "b", "default", "header:a-b", "")
	f.Add("a", "ip", "{b}", "a", "ip", "%7Bb%7D")
	f.Add("a", "ip", "x:ip=y", "a", "header:x", "ip=y")
	f.Add("a", "ip", string(make([]byte, 300)), "a", "ip", hashed[len(":ip="):])
	f.Fuzz(func(t *testing.T, policy1, source1, value1, policy2, source2, value2 string) {
		s1, err1 := domain.ParseKeySource(source1)
		s2, err2 := domain.ParseKeySource(source2)
		if err1 != nil || err2 != nil || !domain.ValidName(policy1) || !domain.ValidName(policy2) {
			return
		}
		k1, k2 := domain.NewBucketKey(policy1, s1, value1), domain.NewBucketKey(policy2, s2, value2)
		requireSafeKey(t, k1)
		requireSafeKey(t, k2)
		same := policy1 == policy2 && s1 == s2 && value1 == value2
		require.Equal(t, same, k1 == k2, "%q %q", k1, k2)
	})
}

func FuzzNewLimit(f *testing.F) {
	f.Add("burst", int64(10), int64(5), int64(time.Second))
	f.Add("", int64(1), int64(1), int64(1500))
	f.Add("", int64(domain.MaxTokens), int64(1), int64(1<<63-1))
	f.Add("", int64(1), int64(domain.MaxTokens), int64(1<<63-1))
	f.Add("A", int64(-1<<63), int64(-1<<63), int64(-1<<63))
	f.Fuzz(func(t *testing.T, name string, capacity, refill, per int64) {
		l, err := domain.NewLimit(name, domain.Tokens(capacity), domain.Tokens(refill), time.Duration(per))
		if err != nil {
			require.ErrorIs(t, err, domain.ErrInvalidLimit)
			require.True(t, l.IsZero())
			return
		}
		full := l.Full(t0)
		require.LessOrEqual(t, full.Credits, domain.MaxCredits)
		require.Equal(t, l.Capacity(), l.Remaining(full))
		require.Positive(t, l.FillTime())
		require.LessOrEqual(t, l.FillTime(), domain.MaxFill)
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
		l, err := domain.NewLimit("", domain.Tokens(capacity), domain.Tokens(refill), time.Duration(per))
		if err != nil || domain.Op(op) > domain.OpReset || domain.Op(op).CheckCost(domain.Tokens(cost)) != nil ||
			credits < -top || credits > top || p < 1 || p > top || at < 0 || at >= 1<<53 || now < 0 || now >= 1<<53 {
			return
		}
		g := newGroup(l)
		g.stored[0] = domain.Bucket{Credits: domain.Credits(credits), At: domain.Instant(at), TokenCredits: domain.Credits(p)}
		requireAsModel(t, g, domain.Op(op), domain.Tokens(cost), domain.Instant(now))
		requireInRange(t, &l, l.Seen(g.stored[0], domain.Instant(now)), domain.Tokens(cost), domain.Instant(now))
	})
}

func requireInRange(t *testing.T, l *domain.Limit, b domain.Bucket, cost domain.Tokens, now domain.Instant) {
	t.Helper()
	require.GreaterOrEqual(t, b.Credits, -domain.MaxCredits)
	require.LessOrEqual(t, b.Credits, l.Full(now).Credits)
	require.Equal(t, l.TokenCredits(), b.TokenCredits)
	require.LessOrEqual(t, b.At, now)
	require.Less(t, int64(now-b.At), l.TickMicros())
	require.Equal(t, l.FullAt(b), now.Add(l.ResetAfter(b, now)))
	require.LessOrEqual(t, l.ResetAfter(b, now), 2*domain.MaxFill)
	require.LessOrEqual(t, l.NextToken(b, now), l.ResetAfter(b, now))
	if wait := l.RetryAfter(b, cost, now); wait != domain.Never {
		require.GreaterOrEqual(t, wait, time.Duration(0))
		require.Equal(t, l.Affords(b, cost), wait == 0)
	}
}
