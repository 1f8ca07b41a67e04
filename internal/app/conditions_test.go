package app_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

var (
	byPlan  = clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-plan"}
	byScope = clientkey.Source{Kind: clientkey.SourceClaim, Name: "scope"}
)

// plansOf is a policy with a bucket of 10 by the header x-client-id, of 100 for the plans, and of 50 for who may write.
func plansOf(t require.TestingT, plans ...string) policy.Policy {
	return policy.Policy{
		Key: clientkey.Key{byHeader}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 10)},
		Overrides: []policy.Override{
			{When: []policy.Condition{{Source: byPlan, Values: plans}}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 100)}},
			{When: []policy.Condition{{Source: byScope, Values: []string{"write"}}}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 50)}},
			{When: []policy.Condition{{Source: byAddress, Values: []string{"10.0.0.0/8"}}}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 20)}},
		},
	}
}

// onPlan is a request of client a with this header.
func onPlan(plan string, trusted bool, cost domain.Tokens) policy.Request {
	req := having("192.0.2.1", map[string]string{"header:x-client-id": "a", "header:x-plan": plan})
	req.Trusted, req.Cost = trusted, cost
	return req
}

func TestDecide_headersInConditionsAreBelievedIfTrusted(t *testing.T) {
	s := fixtureOf(t, plansOf(t, "pro"))
	for name, c := range map[string]struct {
		req     policy.Request
		want    domain.Tokens
		ignored string
	}{
		"trusted":              {onPlan("pro", true, 0), 100, ""},
		"not trusted":          {onPlan("pro", false, 0), 10, "x-plan"},
		"another, not trusted": {onPlan("team", false, 0), 10, "x-plan"},
		"another plan":         {onPlan("team", true, 0), 10, ""},
		"no plan":              {onPlan("", true, 0), 10, ""},
		"no plan, not trusted": {onPlan("", false, 0), 10, ""},
	} {
		d := s.must(t, c.req)
		assert.Equal(t, c.want, d.Limits[0].Capacity, name)
		assert.Equal(t, c.ignored, d.IgnoredHeader, name)
		assert.Equal(t, c.want == 100, d.Override == &d.AppliedPolicy.Overrides[0], name)
	}
}

func TestDecideMany_notesTheIgnoredHeaderOfEachRequest(t *testing.T) {
	s := fixtureOf(t, plansOf(t, "pro"))
	reqs, answers := []policy.Request{onPlan("pro", false, 0), onPlan("pro", true, 0)}, make([]ports.Answer, 2)
	s.DecideMany(t.Context(), reqs, answers)
	assert.Equal(t, "x-plan", answers[0].Decision.IgnoredHeader)
	assert.Empty(t, answers[1].Decision.IgnoredHeader)
}

func TestDecide_claimsAndAddressesInConditionsNeedNoTrust(t *testing.T) {
	s := fixtureOf(t, plansOf(t, "pro"))
	scalar := having("192.0.2.1", map[string]string{"header:x-client-id": "a", "claim:scope": "write"})
	array := having("192.0.2.1", map[string]string{"header:x-client-id": "a"})
	array.Elements = func(source clientkey.Source) []string {
		assert.Equal(t, byScope, source)
		return []string{"read", "write"}
	}
	inside := having("10.1.2.3", map[string]string{"header:x-client-id": "a"})
	named := policy.Request{Key: "a", Client: netip.MustParseAddr("10.1.2.3")} // of a caller without values
	for want, reqs := range map[domain.Tokens][]policy.Request{50: {scalar, array}, 20: {inside, named}} {
		for _, req := range reqs {
			req.Cost = 0
			d := s.must(t, req)
			assert.Equal(t, want, d.Limits[0].Capacity)
			assert.Empty(t, d.IgnoredHeader)
		}
	}
}

func TestDecide_aHeaderInAConditionSentTwice(t *testing.T) {
	s := fixtureOf(t, plansOf(t, "pro"))
	twice := onPlan("", true, 1)
	twice.Lookup = func(source clientkey.Source) (string, error) {
		if source == byPlan {
			return "", errors.New("twice")
		}
		return "a", nil
	}
	_, err := s.Decide(t.Context(), twice)
	require.EqualError(t, err, "twice", "the decision depends on it")
	twice.Trusted = false
	d := s.must(t, twice)
	assert.Equal(t, domain.Tokens(10), d.Limits[0].Capacity)
	assert.Equal(t, "x-plan", d.IgnoredHeader)
}

func TestDecide_aValueThatTheCallerLeftOutFitsNoCondition(t *testing.T) {
	s := fixtureOf(t, plansOf(t, "pro"))
	req := policy.Request{Key: "a", Trusted: true, Lookup: func(clientkey.Source) (string, error) { return "", domain.ErrNoValue }}
	assert.Equal(t, domain.Tokens(10), s.must(t, req).Limits[0].Capacity)

	p := plansOf(t, "pro")
	p.Key = clientkey.Key{byPlan}
	s = fixtureOf(t, p)
	req.Key = "pro"
	assert.Equal(t, domain.Tokens(100), s.must(t, req).Limits[0].Capacity, "the key is the plan, as the caller says it")
}

// A client keeps its bucket when its plan changes: it is converted, as after a change of the policy.
func TestDecide_aPlanThatChangesKeepsTheBucket(t *testing.T) {
	s := fixtureOf(t, plansOf(t, "pro"))
	require.Equal(t, domain.Tokens(40), s.must(t, onPlan("pro", true, 60)).Limits[0].Remaining)
	assert.Equal(t, domain.Tokens(9), s.must(t, onPlan("free", true, 1)).Limits[0].Remaining)
	assert.Len(t, s.store.keys(), 1)
	assert.Equal(t, domain.Tokens(7), s.must(t, onPlan("pro", true, 2)).Limits[0].Remaining, "an upgrade alone fills nothing")

	d := s.must(t, onPlan("pro", true, 3))
	refunded, err := s.Decide(t.Context(), d.Refund(onPlan("pro", true, 3)))
	require.NoError(t, err)
	assert.Equal(t, domain.Tokens(7), refunded.Limits[0].Remaining)
}

// A permit of a request on a plan is released by the limits of this plan.
func TestPermits_areReleasedByTheLimitsOfTheirConditions(t *testing.T) {
	p := plansOf(t, "pro")
	p.Limits = append(p.Limits, mustConcurrent(t, "parallel", 2, time.Minute))
	s := fixtureOf(t, p)
	req := onPlan("pro", true, 50)
	req.HoldsPermit = true
	d := s.must(t, req)
	require.NotEmpty(t, d.Permit)
	_, err := s.Renew(t.Context(), d.Permit)
	require.NoError(t, err)
	released, err := s.Release(t.Context(), d.Permit, 20)
	require.NoError(t, err)
	require.True(t, released)
	assert.Equal(t, domain.Tokens(80), s.must(t, onPlan("pro", true, 0)).Limits[0].Remaining, "refunded, and not cut to the capacity of others")
}

// inMemory returns the call of a caller on plan-998, who asks a limiter over the memory store.
func inMemory(tb testing.TB, plans int) func() {
	tb.Helper()
	p := policy.Policy{Key: clientkey.Key{byHeader}, Limits: []domain.Limit{mustLimit(tb, "burst", "1000000/s", 1_000_000)}}
	for i := range plans {
		p.Overrides = append(p.Overrides, policy.Override{
			When:   []policy.Condition{{Source: byPlan, Values: []string{fmt.Sprintf("plan-%d", i)}}},
			Limits: []domain.Limit{mustLimit(tb, "burst", "1000000/s", domain.Tokens(1_000_001+i))},
		})
	}
	policies, err := app.NewSinglePolicy(withDefaults(p))
	require.NoError(tb, err)
	store, err := memstore.New(memstore.DefaultConfig())
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = store.Close() })
	limiter := app.NewRateLimiter(store, store, policies, nopObserver{})
	reqs, answers := make([]policy.Request, 1), make([]ports.Answer, 1)
	reqs[0] = policy.Request{Cost: 1, Trusted: true, Lookup: func(source clientkey.Source) (string, error) {
		if source == byPlan {
			return "plan-998", nil
		}
		return "client-000042", nil
	}}
	return func() { limiter.DecideMany(tb.Context(), reqs, answers) }
}

func BenchmarkDecideMany_conditions(b *testing.B) {
	for _, plans := range []int{0, 1, 1000} {
		b.Run(fmt.Sprint(plans), func(b *testing.B) {
			decide := inMemory(b, plans)
			decide()
			b.ReportAllocs()
			for b.Loop() {
				decide()
			}
		})
	}
}
