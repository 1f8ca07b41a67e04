package decision_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

func TestConstraining(t *testing.T) {
	pass := func(name string, remaining, capacity domain.Tokens) domain.LimitStatus {
		return domain.LimitStatus{Name: name, Allowed: true, Remaining: remaining, Capacity: capacity}
	}
	deny := func(name string, retry time.Duration) domain.LimitStatus {
		return domain.LimitStatus{Name: name, RetryAfter: retry, Capacity: 10}
	}
	const most = domain.MaxTokens
	cases := []struct {
		name   string
		limits []domain.LimitStatus
		want   string
	}{
		{"the fewest tokens, relative to the capacity", []domain.LimitStatus{pass("a", 5, 10), pass("b", 6, 100), pass("c", 1, 2)}, "b"},
		{"the first of equals", []domain.LimitStatus{pass("a", 5, 10), pass("b", 50, 100)}, "a"},
		{"no overflow, by one token", []domain.LimitStatus{pass("a", most-1, most), pass("b", most-2, most)}, "b"},
		{"a debt is nothing left", []domain.LimitStatus{pass("a", 0, 10), pass("b", -7, 10)}, "a"},
		{"a debt is less than anything", []domain.LimitStatus{pass("a", 5, 10), pass("b", -7, 10)}, "b"},
		{"a debt is less than anything, in the other order", []domain.LimitStatus{pass("a", -7, 10), pass("b", 5, 10)}, "a"},
		{"a denial before any pass", []domain.LimitStatus{pass("a", 0, 10), deny("b", 1)}, "b"},
		{"a denial before any pass, in the other order", []domain.LimitStatus{deny("a", 1), pass("b", 0, 10)}, "a"},
		{"the longest wait", []domain.LimitStatus{deny("a", 2), deny("b", 3), deny("c", 1)}, "b"},
		{"never is longest", []domain.LimitStatus{deny("a", domain.MaxFill), deny("b", domain.Never), deny("c", 1)}, "b"},
		{"the first of equal waits", []domain.LimitStatus{deny("a", 2), deny("b", 2)}, "a"},
	}
	for _, c := range cases {
		d := decision.Decision{Limits: c.limits}
		assert.Equal(t, c.want, d.Constraining().Name, c.name)
	}
	assert.Nil(t, (&decision.Decision{}).Constraining())
}

func TestAppendAdvice_saysWhatTheClientCanDo(t *testing.T) {
	deny := func(name string, retry time.Duration) domain.LimitStatus {
		return domain.LimitStatus{Name: name, RetryAfter: retry, Capacity: 10}
	}
	pass := domain.LimitStatus{Name: "fine", Allowed: true, Capacity: 10}
	for want, limits := range map[string][]domain.LimitStatus{
		"the limit burst is reached: try again in 12 s":                                  {pass, deny("burst", 11*time.Second+1)},
		"the limit daily is reached: try again in 1 s":                                   {deny("burst", 1), deny("daily", 2)},
		"the request costs more than the capacity of the limit daily: it can never pass": {deny("burst", time.Hour), deny("daily", domain.Never)},
		"a limit is reached": {{Name: "burst", LevelUnknown: true}},
	} {
		d := decision.Decision{Limits: limits}
		assert.Equal(t, "> "+want, string(d.AppendAdvice([]byte("> "))))
	}
}

func TestOutcome(t *testing.T) {
	assert.Equal(t, "denied", decision.Outcome(0).String(), "the zero value denies")
	assert.Equal(t, "allowed", decision.OutcomeAllowed.String())
	assert.Equal(t, "unavailable", decision.OutcomeUnavailable.String())
	allowed := decision.Decision{Outcome: decision.OutcomeAllowed}
	assert.True(t, allowed.Allowed())
	assert.False(t, (&decision.Decision{}).Allowed())
	assert.False(t, (&decision.Decision{Outcome: decision.OutcomeUnavailable}).Allowed())
}
