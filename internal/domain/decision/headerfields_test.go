package decision_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

func TestHeaderFields_tellWhatIsKnown(t *testing.T) {
	status := domain.LimitStatus{
		Name: "burst", Capacity: 10, RetryAfter: 200 * time.Millisecond, NextToken: 200 * time.Millisecond, Window: 1500 * time.Millisecond,
	}
	other := domain.LimitStatus{Name: "daily", Capacity: 9, Allowed: true, Remaining: 9, Window: time.Hour, LevelUnknown: true}
	never := status
	never.RetryAfter = domain.Never
	const policy = `"burst";q=10;w=2`
	for name, c := range map[string]struct {
		decision decision.Decision
		want     map[string]string
	}{
		"no limit": {decision.Decision{Outcome: decision.OutcomeAllowed}, map[string]string{}},
		"denied": {
			decision.Decision{LevelKnown: true, Limits: []domain.LimitStatus{status, other}},
			map[string]string{
				"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "X-RateLimit-Retry-After": "1", "Retry-After": "1",
				"RateLimit": `"burst";r=0;t=1`, "RateLimit-Policy": policy + `, "daily";q=9;w=3600`,
			},
		},
		"never": {
			decision.Decision{LevelKnown: true, Limits: []domain.LimitStatus{never}},
			map[string]string{
				"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "RateLimit": `"burst";r=0;t=1`, "RateLimit-Policy": policy,
			},
		},
		"shadow": {
			decision.Decision{LevelKnown: true, Shadow: true, Limits: []domain.LimitStatus{status}},
			map[string]string{
				"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "X-RateLimit-Shadow": "denied",
				"RateLimit": `"burst";r=0;t=1`, "RateLimit-Policy": policy,
			},
		},
		"fallback": {
			decision.Decision{Outcome: decision.OutcomeAllowed, Store: decision.StoreFallback, Limits: []domain.LimitStatus{status}},
			map[string]string{"X-RateLimit-Limit": "10", "X-RateLimit-Store": "fallback", "RateLimit-Policy": policy},
		},
	} {
		got := map[string]string{}
		c.decision.HeaderFields(nil, func(name string, value []byte) { got[name] = string(value) })
		assert.Equal(t, c.want, got, name)
	}
}
