package decision_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

// concurrent is a decision of 5 permits at once and a bucket of 10 tokens, at a time when so many permits are held. The oldest
// expires in 12 s.
func concurrent(t *testing.T, held domain.Credits) decision.Decision {
	t.Helper()
	parallel, err := domain.NewConcurrency("parallel", 5, time.Minute)
	require.NoError(t, err)
	burst, err := domain.NewBucket("burst", 10, 5, time.Second)
	require.NoError(t, err)
	const now = domain.Instant(1_774_785_600_000_000)
	permits := domain.State{Amount: held, At: now, TokenCredits: 1}
	if held > 0 {
		permits.At = now.Add(12 * time.Second)
	}
	d := decision.Decision{LevelKnown: true, At: now, Limits: []domain.LimitStatus{
		parallel.Status(permits, now, 1, 0, false), burst.Status(burst.Full(now), now, 1, 0, false),
	}}
	if d.Limits[0].Allowed {
		d.Outcome = decision.OutcomeAllowed
	}
	return d
}

// TestHeaderFields_aConcurrencyLimitHasNoTimes: no one knows when a permit is released.
func TestHeaderFields_aConcurrencyLimitHasNoTimes(t *testing.T) {
	const policies = `"parallel";q=5, "burst";q=10;w=2`
	for held, want := range map[domain.Credits]map[string]string{
		0: {
			"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "5", "RateLimit": `"parallel";r=5, "burst";r=10`, "RateLimit-Policy": policies,
		},
		3: {
			"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "2", "RateLimit": `"parallel";r=2, "burst";r=10`, "RateLimit-Policy": policies,
		},
		5: {
			"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "0", "RateLimit": `"parallel";r=0, "burst";r=10`, "RateLimit-Policy": policies,
			"Retry-After": "1", "X-RateLimit-Retry-After": "1",
		},
		7: { // the limit was lowered while they were held
			"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "0", "RateLimit": `"parallel";r=0, "burst";r=10`, "RateLimit-Policy": policies,
			"Retry-After": "1", "X-RateLimit-Retry-After": "1",
		},
	} {
		d, got := concurrent(t, held), map[string]string{}
		d.HeaderFields(nil, func(name string, value []byte) { got[name] = string(value) })
		assert.Equal(t, want, got, "%d held", held)
	}
}

func TestHeaderFields_aConcurrencyLimitWhoseStoreFails(t *testing.T) {
	parallel, err := domain.NewConcurrency("parallel", 5, time.Minute)
	require.NoError(t, err)
	d := decision.Decision{
		Outcome: decision.OutcomeAllowed, Store: decision.StoreFallback, Limits: []domain.LimitStatus{parallel.UnknownStatus(true)},
	}
	got := map[string]string{}
	d.HeaderFields(nil, func(name string, value []byte) { got[name] = string(value) })
	assert.Equal(t, map[string]string{"X-RateLimit-Limit": "5", "X-RateLimit-Store": "fallback", "RateLimit-Policy": `"parallel";q=5`}, got)
}

func TestConcurrencyStatus_resetIsWhenTheOldestPermitExpires(t *testing.T) {
	for held, want := range map[domain.Credits]time.Duration{0: 0, 1: 12 * time.Second, 5: 12 * time.Second} {
		d := concurrent(t, held)
		assert.Equal(t, want, d.Limits[0].ResetAfter, "%d held", held)
	}
	full := concurrent(t, 5)
	assert.Equal(t, time.Second, full.Limits[0].RetryAfter)
	assert.Equal(t, "the limit parallel is reached: try again in 1 s", string(full.AppendAdvice(nil)))
}
