package domain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestHeaderFields_tellWhatIsKnown(t *testing.T) {
	status := domain.LimitStatus{
		Name: "burst", Capacity: 10, RetryAfter: 200 * time.Millisecond, NextToken: 200 * time.Millisecond, FillTime: 1500 * time.Millisecond,
	}
	other := domain.LimitStatus{Name: "daily", Capacity: 9, Allowed: true, Remaining: 9, FillTime: time.Hour, LevelUnknown: true}
	never := status
	never.RetryAfter = domain.Never
	const policy = `"burst";q=10;w=2`
	for name, c := range map[string]struct {
		decision domain.Decision
		want     map[string]string
	}{
		"no limit": {domain.Decision{Outcome: domain.OutcomeAllowed}, map[string]string{}},
		"denied": {
			domain.Decision{LevelKnown: true, Limits: []domain.LimitStatus{status, other}},
			map[string]string{
				"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "X-RateLimit-Retry-After": "1", "Retry-After": "1",
				"RateLimit": `"burst";r=0;t=1`, "RateLimit-Policy": policy + `, "daily";q=9;w=3600`,
			},
		},
		"never": {
			domain.Decision{LevelKnown: true, Limits: []domain.LimitStatus{never}},
			map[string]string{
				"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "RateLimit": `"burst";r=0;t=1`, "RateLimit-Policy": policy,
			},
		},
		"shadow": {
			domain.Decision{LevelKnown: true, Shadow: true, Limits: []domain.LimitStatus{status}},
			map[string]string{
				"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "X-RateLimit-Shadow": "denied",
				"RateLimit": `"burst";r=0;t=1`, "RateLimit-Policy": policy,
			},
		},
		"fallback": {
			domain.Decision{Outcome: domain.OutcomeAllowed, Store: domain.StoreFallback, Limits: []domain.LimitStatus{status}},
			map[string]string{"X-RateLimit-Limit": "10", "X-RateLimit-Store": "fallback", "RateLimit-Policy": policy},
		},
	} {
		got := map[string]string{}
		c.decision.HeaderFields(nil, func(name string, value []byte) { got[name] = string(value) })
		assert.Equal(t, c.want, got, name)
	}
}
