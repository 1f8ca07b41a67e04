package domain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestStatus(t *testing.T) {
	l := mustLimit(t, "5/s", 10)
	b := domain.State{Amount: 2 * l.TokenBucket().TokenCredits(), At: t0, TokenCredits: l.TokenBucket().TokenCredits()}
	want := domain.LimitStatus{
		Name: "l", Allowed: true, Capacity: 10, Remaining: 2,
		ResetAfter: 1600 * ms, NextToken: 200 * ms, Window: 2 * time.Second,
	}
	assert.Equal(t, want, l.Status(b, t0, 2, 0, false), "this limit could have paid, another denied")
	assert.Equal(t, want, l.Status(b, t0, 3, 0, true), "the cost is paid already")
	want.Allowed, want.RetryAfter = false, 200*ms
	assert.Equal(t, want, l.Status(b, t0, 3, 0, false))
	want.RetryAfter = domain.Never
	assert.Equal(t, want, l.Status(b, t0, 11, 0, false))
}

func TestUnknownStatus_carriesNoLevel(t *testing.T) {
	l := mustLimit(t, "5/s", 10)
	assert.Equal(t, domain.LimitStatus{Name: "l", Allowed: true, Capacity: 10, Window: 2 * time.Second, LevelUnknown: true}, l.UnknownStatus(true))
	assert.Equal(t, domain.LimitStatus{Name: "l", Capacity: 10, Window: 2 * time.Second, LevelUnknown: true}, l.UnknownStatus(false))
}

func TestStatus_ofAQuota(t *testing.T) {
	l := mustCost(t, mustQuota(t, 10), 3)
	now := t0.Add(20 * time.Minute)
	want := domain.LimitStatus{
		Name: "q", Allowed: true, Capacity: 10, Remaining: 3, ResetAfter: 40 * time.Minute, NextToken: 40 * time.Minute, Window: time.Hour,
	}
	assert.Equal(t, want, l.Status(domain.State{Amount: 7, At: t0, TokenCredits: 1}, now, 99, 0, false), "3 are what a request costs here")
	want.Allowed, want.Remaining, want.RetryAfter = false, 2, 40*time.Minute
	assert.Equal(t, want, l.Status(domain.State{Amount: 8, At: t0, TokenCredits: 1}, now, 1, 0, false))
	assert.Equal(t, domain.LimitStatus{Name: "q", Capacity: 10, LevelUnknown: true}, l.UnknownStatus(false), "whose period is not known")
}
