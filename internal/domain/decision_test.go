package domain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/domain"
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
		d := domain.Decision{Limits: c.limits}
		assert.Equal(t, c.want, d.Constraining().Name, c.name)
	}
	assert.Nil(t, (&domain.Decision{}).Constraining())
}

func TestStatus(t *testing.T) {
	l := mustLimit(t, "5/s", 10)
	b := domain.Bucket{Credits: 2 * l.TokenCredits(), At: t0, TokenCredits: l.TokenCredits()}
	want := domain.LimitStatus{
		Name: "l", Allowed: true, Capacity: 10, Remaining: 2,
		ResetAfter: 1600 * ms, NextToken: 200 * ms, FillTime: 2 * time.Second,
	}
	assert.Equal(t, want, l.Status(b, t0, 2, false), "this limit could have paid, another denied")
	assert.Equal(t, want, l.Status(b, t0, 3, true), "the cost is paid already")
	want.Allowed, want.RetryAfter = false, 200*ms
	assert.Equal(t, want, l.Status(b, t0, 3, false))
	want.RetryAfter = domain.Never
	assert.Equal(t, want, l.Status(b, t0, 11, false))
}

func TestUnknownStatus_carriesNoLevel(t *testing.T) {
	l := mustLimit(t, "5/s", 10)
	assert.Equal(t, domain.LimitStatus{Name: "l", Allowed: true, Capacity: 10, FillTime: 2 * time.Second, LevelUnknown: true}, l.UnknownStatus(true))
	assert.Equal(t, domain.LimitStatus{Name: "l", Capacity: 10, FillTime: 2 * time.Second, LevelUnknown: true}, l.UnknownStatus(false))
}

func TestOutcome(t *testing.T) {
	assert.Equal(t, "denied", domain.Outcome(0).String(), "the zero value denies")
	assert.Equal(t, "allowed", domain.OutcomeAllowed.String())
	assert.Equal(t, "unavailable", domain.OutcomeUnavailable.String())
	allowed := domain.Decision{Outcome: domain.OutcomeAllowed}
	assert.True(t, allowed.Allowed())
	assert.False(t, (&domain.Decision{}).Allowed())
	assert.False(t, (&domain.Decision{Outcome: domain.OutcomeUnavailable}).Allowed())
}
