package domain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestNewConcurrency_keepsWhatItWasGiven(t *testing.T) {
	l, err := domain.NewConcurrency("parallel", 5, 90*time.Second)
	require.NoError(t, err)
	assert.Equal(t, "parallel", l.Name())
	assert.Equal(t, domain.KindConcurrency, l.Kind())
	assert.Equal(t, "concurrency", l.Kind().String())
	assert.Equal(t, domain.Tokens(5), l.Capacity())
	assert.Equal(t, 90*time.Second, l.Concurrency().Lease())
	assert.Equal(t, "5 at once", l.Rate())
	assert.Equal(t, "parallel: 5 at once, lease 90s", l.String())
	assert.Nil(t, l.TokenBucket())
	assert.Nil(t, l.Quota())
	bucket := mustLimit(t, "5/s", 10)
	assert.Nil(t, bucket.Concurrency())
	assert.False(t, l.IsZero())
}

func TestNewConcurrency_namesEveryFieldThatIsWrong(t *testing.T) {
	const lease = "must be from 1s to 24h, in whole microseconds"
	for _, c := range []struct {
		name       string
		concurrent domain.Tokens
		lease      time.Duration
		want       string
	}{
		{"a", 1, time.Second, ""},
		{"a", domain.MaxConcurrent, 24 * time.Hour, ""},
		{"a", 0, time.Second, "concurrent: 0: must be from 1 to 1000000 permits"},
		{"a", -1, time.Second, "concurrent: -1: must be from 1 to 1000000 permits"},
		{"a", domain.MaxConcurrent + 1, time.Second, "concurrent: 1000001: must be from 1 to 1000000 permits"},
		{"a", 1, 0, "lease: 0s: " + lease},
		{"a", 1, -time.Minute, "lease: -1m0s: " + lease},
		{"a", 1, time.Second - us, "lease: 999.999ms: " + lease},
		{"a", 1, 24*time.Hour + us, "lease: 24h0m0.000001s: " + lease},
		{"a", 1, time.Second + 1, "lease: 1.000000001s: " + lease},
		{"A b", 0, 0, "name: \"A b\": " + domain.NameRule + "\nconcurrent: 0: must be from 1 to 1000000 permits\nlease: 0s: " + lease},
	} {
		l, err := domain.NewConcurrency(c.name, c.concurrent, c.lease)
		if c.want == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, c.want)
		require.ErrorIs(t, err, domain.ErrInvalidLimit)
		assert.True(t, l.IsZero())
	}
}

func TestConcurrency_countsOnePermitWhateverARequestCosts(t *testing.T) {
	l := mustConcurrency(t, 5)
	assert.Equal(t, domain.Tokens(1), l.CostOf(99))
	assert.Zero(t, l.CostOf(0), "a peek takes none")
	with, err := l.WithCost(1)
	require.EqualError(t, err, "cost: 1: a concurrency limit always counts one permit")
	require.ErrorIs(t, err, domain.ErrInvalidLimit)
	assert.True(t, with.IsZero())
}

func TestConcurrency_equal(t *testing.T) {
	longer, err := domain.NewConcurrency("f", 5, 2*time.Minute)
	require.NoError(t, err)
	different := []domain.Limit{mustConcurrency(t, 5), mustConcurrency(t, 6), longer, mustLimit(t, "5/s", 5), {}}
	for i := range different {
		for j := range different {
			assert.Equal(t, i == j, different[i].Equal(different[j]), "%d and %d", i, j)
		}
	}
	assert.True(t, mustConcurrency(t, 5).Equal(mustConcurrency(t, 5)))
}

func TestStatus_ofPermits(t *testing.T) {
	l := mustConcurrency(t, 3)
	held := func(n domain.Credits) domain.State {
		return domain.State{Amount: n, At: t0.Add(20 * time.Second), TokenCredits: 1}
	}
	want := domain.LimitStatus{Name: "f", Allowed: true, Capacity: 3, Remaining: 1, ResetAfter: 20 * time.Second}
	assert.Equal(t, want, l.Status(held(2), t0, 99, 0, false), "another limit denied")
	want.Remaining = 0
	assert.Equal(t, want, l.Status(held(3), t0, 1, 0, true), "the last permit was taken")
	want.Allowed, want.RetryAfter = false, time.Second
	assert.Equal(t, want, l.Status(held(3), t0, 1, 0, false))
	assert.Equal(t, want, l.Status(held(3), t0, 1, time.Hour, false), "permits are not lent")
	want.Remaining = -2
	assert.Equal(t, want, l.Status(held(5), t0, 1, 0, false), "the limit had more permits before")
	assert.Equal(t, domain.LimitStatus{Name: "f", Allowed: true, Capacity: 3, Remaining: 3}, l.Status(l.Full(t0), t0, 1, 0, false))
	assert.Equal(t, domain.LimitStatus{Name: "f", Capacity: 3, LevelUnknown: true}, l.UnknownStatus(false))
	assert.Zero(t, l.Wait(held(3), t0))
	assert.Equal(t, domain.Tokens(2), l.Concurrency().Held(held(2)))
	assert.Equal(t, t0.Add(20*time.Second), l.FullAt(held(2)), "the time of the state")
}
