package webtest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// LimiterFunc is a Limiter of one function.
type LimiterFunc func(policy.Request) (decision.Decision, error)

var _ ports.Limiter = LimiterFunc(nil)

// Decide implements ports.Limiter.
func (f LimiterFunc) Decide(_ context.Context, req policy.Request) (decision.Decision, error) {
	return f(req)
}

// DecideMany implements ports.Limiter.
func (f LimiterFunc) DecideMany(_ context.Context, reqs []policy.Request, answers []ports.Answer) {
	for i := range reqs {
		answers[i].Decision, answers[i].Err = f(reqs[i])
	}
}

// DecideAtomic implements ports.Limiter. Nothing is given back.
func (f LimiterFunc) DecideAtomic(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	f.DecideMany(ctx, reqs, answers)
}

// Always answers every request alike.
func Always(d decision.Decision) LimiterFunc {
	return func(policy.Request) (decision.Decision, error) { return d, nil }
}

// Burst is 5/s with capacity 10, as the default policy has it.
func Burst(t testing.TB) domain.Limit {
	t.Helper()
	l, err := domain.NewBucket("burst", 10, 5, time.Second)
	require.NoError(t, err)
	return l
}

// Decided is a decision of a policy of one limit with so many tokens left.
func Decided(t testing.TB, left, cost domain.Tokens, allowed bool) decision.Decision {
	t.Helper()
	l := Burst(t)
	b := domain.State{Amount: domain.Credits(left) * l.TokenBucket().TokenCredits(), TokenCredits: l.TokenBucket().TokenCredits()}
	d := decision.Decision{
		Outcome: decision.OutcomeDenied, Policy: "default", Store: decision.StoreMemory, LevelKnown: true,
		Limits: []domain.LimitStatus{l.Status(b, 0, cost, 0, allowed)},
	}
	if allowed {
		d.Outcome = decision.OutcomeAllowed
	}
	return d
}
