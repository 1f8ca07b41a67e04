//go:build faults

package faults

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The policies of the load. Each failure mode has buckets that run dry and buckets that hardly do; ample refills so
// slowly that a token debited twice stays missing.
const (
	hot   = "hot"   // open
	tight = "tight" // closed
	pair  = "pair"  // local, of two limits
	ample = "ample" // local
)

// policies is a fixed set of policies.
type policies map[string]*domain.Policy

var _ ports.PolicySource = policies(nil)

// Named implements ports.PolicySource.
func (p policies) Named(name string) (*domain.Policy, error) {
	if found := p[name]; found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, name)
}

// Match implements ports.PolicySource.
func (p policies) Match(*domain.Request) *domain.Policy { return p[hot] }

func newPolicies(t testing.TB) policies {
	t.Helper()
	made := policies{}
	add := func(name string, mode domain.FailureMode, limits ...domain.Limit) {
		p := &domain.Policy{Name: name, Limits: limits, OnStoreFailure: mode}
		require.NoError(t, p.Compile())
		made[name] = p
	}
	add(hot, domain.FailOpen, newLimit(t, "burst", 50, 200, time.Second))
	add(tight, domain.FailClosed, newLimit(t, "burst", 10, 5, time.Second))
	add(pair, domain.FailLocal, newLimit(t, "burst", 100, 100, time.Second), newLimit(t, "hourly", 2000, 1000, time.Hour))
	add(ample, domain.FailLocal, newLimit(t, "long", 100_000, 1, time.Second))
	return made
}

var policyNames = []string{hot, tight, pair, ample}

// failureModes is what each policy is meant to do when the store fails.
var failureModes = map[string]domain.FailureMode{
	hot: domain.FailOpen, tight: domain.FailClosed, pair: domain.FailLocal, ample: domain.FailLocal,
}

func newLimit(t testing.TB, name string, capacity, refill domain.Tokens, per time.Duration) domain.Limit {
	t.Helper()
	l, err := domain.NewLimit(name, capacity, refill, per)
	require.NoError(t, err)
	require.EqualValues(t, 1, l.TickMicros(), "the law counts in microseconds")
	return l
}
