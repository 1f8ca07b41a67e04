//go:build faults

package faults

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The policies of the load. Some have small limits that are often used up, some have large ones. The bucket of ample refills
// so slowly, and its quota lasts so long, that a token that is debited twice stays missing.
const (
	hot   = "hot"   // open
	tight = "tight" // closed
	pair  = "pair"  // local, two limits
	ample = "ample" // local, a bucket and a quota
	quota = "quota" // closed, a quota alone
	mixed = "mixed" // local, limits of both kinds, some with a cost of their own
	held  = "held"  // local, a bucket, a quota and a concurrency limit
)

// permitLease is the lease of the permits of held.
const permitLease = domain.MinLease

// policies is a fixed set of policies.
type policies map[string]*policy.Policy

var _ ports.PolicySource = policies(nil)

// Named implements ports.PolicySource.
func (p policies) Named(name string) (*policy.Policy, error) {
	if found := p[name]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, name)
}

// Shared implements ports.PolicySource.
func (p policies) Shared(name string) (*policy.Shared, error) {
	return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, policy.SharedPrefix+name)
}

// Match implements ports.PolicySource.
func (p policies) Match(*policy.Request) (*policy.Policy, error) { return p[hot], nil }

func newPolicies(t testing.TB) policies {
	t.Helper()
	made := policies{}
	add := func(name string, mode policy.FailureMode, limits ...domain.Limit) {
		p := &policy.Policy{Name: name, Limits: limits, OnStoreFailure: mode}
		require.NoError(t, p.Compile())
		made[name] = p
	}
	add(hot, policy.FailOpen, newLimit(t, "burst", 50, 200, time.Second))
	add(tight, policy.FailClosed, newLimit(t, "burst", 10, 5, time.Second))
	add(pair, policy.FailLocal, newLimit(t, "burst", 100, 100, time.Second), newLimit(t, "hourly", 2000, 1000, time.Hour))
	add(ample, policy.FailLocal, newLimit(t, "long", 100_000, 1, time.Second), newQuota(t, "hourly", 100_000, "hour"))
	add(quota, policy.FailClosed, newQuota(t, "short", 60, "10s"))
	add(mixed, policy.FailLocal, newLimit(t, "burst", 50, 50, time.Second), newQuota(t, "short", 150, "7s"),
		withCost(t, newQuota(t, "calls", 400, "minute"), 2), withCost(t, newLimit(t, "steady", 100, 80, time.Second), 2))
	parallel, err := domain.NewConcurrency("parallel", 3, permitLease)
	require.NoError(t, err)
	add(held, policy.FailLocal, newLimit(t, "burst", 50, 100, time.Second), newQuota(t, "short", 1000, "7s"), parallel)
	return made
}

var (
	policyNames = []string{hot, tight, pair, ample, quota, mixed, held}
	// oneLimit are the policies with one limit.
	oneLimit = []string{hot, tight, quota}
)

// failureModes is the failure mode of each policy.
var failureModes = map[string]policy.FailureMode{
	hot: policy.FailOpen, tight: policy.FailClosed, pair: policy.FailLocal, ample: policy.FailLocal, quota: policy.FailClosed,
	mixed: policy.FailLocal, held: policy.FailLocal,
}

func newLimit(t testing.TB, name string, capacity, refill domain.Tokens, per time.Duration) domain.Limit {
	t.Helper()
	l, err := domain.NewBucket(name, capacity, refill, per)
	require.NoError(t, err)
	require.EqualValues(t, 1, l.TokenBucket().TickMicros(), "the checker counts in microseconds")
	return l
}

// newQuota returns a quota whose periods have one length and are counted from the epoch, as bucketLog.addChecker expects.
func newQuota(t testing.TB, name string, size domain.Tokens, period string) domain.Limit {
	t.Helper()
	periods, err := calendar.Parse(period, "", "")
	require.NoError(t, err)
	l, err := domain.NewQuota(name, size, periods)
	require.NoError(t, err)
	return l
}

func withCost(t testing.TB, l domain.Limit, cost domain.Tokens) domain.Limit {
	t.Helper()
	l, err := l.WithCost(cost)
	require.NoError(t, err)
	return l
}
