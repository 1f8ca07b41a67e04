package app_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// preflight is what a browser sends before a page's POST.
func preflight(address string) policy.Request {
	req := having(address, map[string]string{"header:origin": "https://a.example", "header:access-control-request-method": "POST"})
	req.Method = "OPTIONS"
	return req
}

func TestDecide_skipsPreflights(t *testing.T) {
	parallel, err := domain.NewConcurrency("parallel", 1, time.Minute)
	require.NoError(t, err)
	s := fixtureOf(t, policy.Policy{
		Key: clientkey.Key{byHeader}, MissingKey: policy.MissingKeyRefuse, SkipPreflight: true,
		Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 1), parallel},
	})
	for range 3 { // also without HoldsPermit, which a concurrency limit needs
		d := s.must(t, preflight("192.0.2.1"))
		assert.Equal(t, decision.OutcomeExempt, d.Outcome)
		assert.Equal(t, decision.StorePolicy, d.Store)
		assert.True(t, d.Allowed())
		assert.Empty(t, d.Limits)
	}
	assert.Empty(t, s.store.keys(), "the store was not asked")
}

func TestDecide_whatIsNoPreflightCounts(t *testing.T) {
	twice := preflight("192.0.2.1")
	lookup := twice.Lookup
	twice.Lookup = func(s clientkey.Source) (string, error) {
		if s.Name == "origin" {
			return "", errors.New("is there twice")
		}
		return lookup(s)
	}
	get, unknown := preflight("192.0.2.1"), preflight("192.0.2.1")
	get.Method, unknown.Lookup = "GET", nil
	noOrigin := having("192.0.2.1", map[string]string{"header:access-control-request-method": "POST"})
	noMethod := having("192.0.2.1", map[string]string{"header:origin": "https://a.example"})
	noOrigin.Method, noMethod.Method = "OPTIONS", "OPTIONS"
	for name, req := range map[string]policy.Request{
		"an origin twice": twice, "another method": get, "no headers known": unknown, "no origin": noOrigin, "no method asked for": noMethod,
	} {
		s := fixtureOf(t, policy.Policy{SkipPreflight: true, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 1)}})
		assert.Equal(t, decision.OutcomeAllowed, s.must(t, req).Outcome, name)
		assert.Len(t, s.store.keys(), 1, name)
	}
	s := fixtureOf(t, policy.Policy{Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 1)}})
	assert.Equal(t, decision.OutcomeAllowed, s.must(t, preflight("192.0.2.1")).Outcome, "without skip_preflight")
	assert.Len(t, s.store.keys(), 1)
}

func TestDecide_aBlockedClientsPreflightIsBlocked(t *testing.T) {
	s := fixtureOf(t, policy.Policy{SkipPreflight: true, Block: []string{"192.0.2.1"}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 1)}})
	assert.Equal(t, decision.OutcomeBlocked, s.must(t, preflight("192.0.2.1")).Outcome)
	assert.Equal(t, decision.OutcomeExempt, s.must(t, preflight("192.0.2.2")).Outcome)
}
