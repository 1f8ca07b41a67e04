package app_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const tenantT = "shared/tenant:h:x-tenant=t tenant"

// namedPolicies is a source of policies that requests name.
type namedPolicies struct{ *policy.Set }

func (s namedPolicies) Named(name string) (*policy.Policy, error) {
	if p := s.Set.Named(name); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, name)
}

func (s namedPolicies) Shared(name string) (*policy.Shared, error) {
	if l := s.SharedNamed(name); l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, name)
}

// sharing returns a limiter of these policies. Each counts 3 tokens by its own key, and then uses the limit tenant: 4 tokens,
// 8 for the tenant big, all by the header x-tenant.
func sharing(t *testing.T, policies ...policy.Policy) *fixture {
	t.Helper()
	tenant, err := policy.NewShared(mustLimit(t, "tenant", "1/h", 4), clientkey.Key{byTenant},
		policy.Override{Keys: []string{"big"}, Limits: []domain.Limit{mustLimit(t, "tenant", "1/h", 8)}})
	require.NoError(t, err)
	for i := range policies {
		p := &policies[i]
		p.Key, p.Limits = clientkey.Key{byHeader}, []domain.Limit{mustLimit(t, "burst", "1/h", 3)}
		if p.OnStoreFailure == "" {
			p.OnStoreFailure = policy.FailOpen
		}
		p.Use(tenant)
	}
	set, err := policy.NewSet(policies, tenant)
	require.NoError(t, err)
	s := &fixture{store: &fakeStore{}, local: &fakeStore{}, observer: &fakeObserver{}}
	s.RateLimiter = app.NewRateLimiter(s.store, s.local, namedPolicies{set}, s.observer)
	return s
}

// under is a request under a policy, as of [of].
func under(policyName string, op domain.Op, client, tenant string, cost domain.Tokens) policy.Request {
	req := of(client, tenant, cost)
	req.Policy, req.Op = policyName, op
	return req
}

func (s *fixture) must(t *testing.T, req policy.Request) *decision.Decision {
	t.Helper()
	d, err := s.Decide(t.Context(), req)
	require.NoError(t, err)
	return &d
}

func TestShared_policiesTakeFromOneBucket(t *testing.T) {
	s := sharing(t, policy.Policy{Name: "read"}, policy.Policy{Name: "write"})
	require.True(t, s.must(t, under("read", domain.OpTake, "a", "t", 3)).Allowed())
	d := s.must(t, under("write", domain.OpTake, "b", "t", 2))
	assert.False(t, d.Allowed(), "one of 4 is left")
	assert.Equal(t, []string{"burst", "tenant"}, []string{d.Limits[0].Name, d.Limits[1].Name})
	assert.Equal(t, []bool{true, false}, []bool{d.Limits[0].Allowed, d.Limits[1].Allowed})
	require.True(t, s.must(t, under("write", domain.OpTake, "b", "t", 1)).Allowed())
	require.True(t, s.must(t, under("write", domain.OpTake, "b", "other", 2)).Allowed())
	assert.Equal(t, map[string]int64{
		"read:h:x-client-id=a burst": 0, "write:h:x-client-id=b burst": 0, tenantT: 0, "shared/tenant:h:x-tenant=other tenant": 2,
	}, s.store.levels(), "the denial gave back what the policy's own limit took")
}

func TestShared_anOverrideCountsByTheSharedLimitsKey(t *testing.T) {
	s := sharing(t, policy.Policy{Name: "read"}, policy.Policy{Name: "write"})
	require.True(t, s.must(t, under("read", domain.OpTake, "a", "big", 3)).Allowed())
	d := s.must(t, under("write", domain.OpTake, "big", "big", 3))
	require.True(t, d.Allowed())
	assert.Equal(t, domain.Tokens(8), d.Limits[1].Capacity)
	assert.Equal(t, domain.Tokens(2), d.Limits[1].Remaining)
	assert.Equal(t, domain.Tokens(4), s.must(t, under("write", domain.OpTake, "big", "t", 0)).Limits[1].Capacity)
}

func TestShared_chargeRefundAndRefundOnReachTheSharedBucket(t *testing.T) {
	statuses, err := policy.ParseRefundOn("503")
	require.NoError(t, err)
	s := sharing(t, policy.Policy{Name: "read", RefundOn: statuses}, policy.Policy{Name: "write"})
	level := func() int64 { return s.store.levels()[tenantT] }
	req := under("read", domain.OpTake, "a", "t", 2)
	d := s.must(t, req)
	require.True(t, d.RefundOn.Has(503))
	require.Equal(t, int64(2), level())
	s.must(t, d.Refund(req))
	require.Equal(t, int64(4), level())
	s.must(t, under("write", domain.OpCharge, "a", "t", 6))
	require.Equal(t, int64(-2), level())
	s.must(t, under("read", domain.OpRefund, "a", "t", 5))
	require.Equal(t, int64(3), level())
}

func TestShared_shadowPolicyOnlyPeeks(t *testing.T) {
	s := sharing(t, policy.Policy{Name: "trial", Mode: policy.ModeShadow}, policy.Policy{Name: "write"})
	require.True(t, s.must(t, under("write", domain.OpTake, "a", "t", 2)).Allowed())
	req := under("trial", domain.OpTake, "a", "t", 2)
	d := s.must(t, req)
	assert.Equal(t, decision.OutcomeAllowed, d.Outcome)
	assert.Equal(t, domain.Tokens(2), d.Limits[1].Remaining, "what the others left")
	levels := map[string]int64{"write:h:x-client-id=a burst": 1, "trial:h:x-client-id=a burst": 1, tenantT: 2}
	assert.Equal(t, levels, s.store.levels(), "its own limit takes as ever")

	s.must(t, d.Refund(req)) // what the shared limit did not give must not come back to it
	levels["trial:h:x-client-id=a burst"] = 3
	assert.Equal(t, levels, s.store.levels())
	s.must(t, under("trial", domain.OpRefund, "a", "t", 1))
	s.must(t, under("trial", domain.OpCharge, "a", "t", 2))
	levels["trial:h:x-client-id=a burst"] = 1
	assert.Equal(t, levels, s.store.levels())
	s.must(t, under("trial", domain.OpTake, "a", "t", 0))
	assert.Equal(t, levels, s.store.levels())
}

// A refund by the policy's name goes by the policy of now, whatever its mode was at the take: the limit that never gave the
// tokens gets them, up to its capacity. Documents say so. The refund of a decision goes by the policy that decided.
func TestShared_aRefundAfterShadowModeGoesByThePolicyOfNow(t *testing.T) {
	trial, enforced := sharing(t, policy.Policy{Name: "p", Mode: policy.ModeShadow}), sharing(t, policy.Policy{Name: "p"})
	buckets := map[clientkey.BucketKey]map[string]domain.State{}
	trial.store.buckets, enforced.store.buckets = buckets, buckets
	req := under("p", domain.OpTake, "a", "t", 2)
	enforced.must(t, req)
	shadow := trial.must(t, under("p", domain.OpTake, "a", "t", 1))
	assert.Equal(t, map[string]int64{"p:h:x-client-id=a burst": 0, tenantT: 2}, enforced.store.levels())
	enforced.must(t, shadow.Refund(req))
	assert.Equal(t, map[string]int64{"p:h:x-client-id=a burst": 1, tenantT: 2}, enforced.store.levels())
	enforced.must(t, under("p", domain.OpRefund, "a", "t", 1))
	assert.Equal(t, map[string]int64{"p:h:x-client-id=a burst": 2, tenantT: 3}, enforced.store.levels())
}

func TestShared_shadowPolicysVerdictIncludesTheSharedLimit(t *testing.T) {
	s := sharing(t, policy.Policy{Name: "trial", Mode: policy.ModeShadow}, policy.Policy{Name: "write"})
	require.True(t, s.must(t, under("write", domain.OpTake, "a", "t", 3)).Allowed())
	d := s.must(t, under("trial", domain.OpTake, "a", "t", 2))
	assert.Equal(t, decision.OutcomeDenied, d.Outcome)
	assert.True(t, d.Allowed())
	assert.True(t, d.Limits[0].Allowed)
	assert.False(t, d.Limits[1].Allowed)
	assert.Positive(t, d.Limits[1].RetryAfter)
	assert.Equal(t, map[string]int64{"write:h:x-client-id=a burst": 0, "trial:h:x-client-id=a burst": 3, tenantT: 1},
		s.store.levels(), "all or nothing: the own limit gives back what it took, the shared one gives nothing back")

	answers := make([]ports.Answer, 2)
	reqs := []policy.Request{under("trial", domain.OpTake, "a", "t", 1), under("write", domain.OpTake, "a", "t", 1)}
	s.DecideAtomic(t.Context(), reqs, answers) // the client has no token left under write
	require.False(t, answers[1].Decision.Allowed())
	assert.Equal(t, map[string]int64{"write:h:x-client-id=a burst": 0, "trial:h:x-client-id=a burst": 3, tenantT: 1}, s.store.levels())
}

// While the shared limit's shard fails, the policy that asks says what happens.
func TestShared_theFailureModeIsThatOfThePolicy(t *testing.T) {
	s := sharing(t, policy.Policy{Name: "open"}, policy.Policy{Name: "closed", OnStoreFailure: policy.FailClosed},
		policy.Policy{Name: "local", OnStoreFailure: policy.FailLocal}, policy.Policy{Name: "other", OnStoreFailure: policy.FailLocal},
		policy.Policy{Name: "trial", OnStoreFailure: policy.FailLocal, Mode: policy.ModeShadow})
	s.store.fail = func(req *ports.TakeRequest) error {
		if req.Key == "shared/tenant:h:x-tenant=t" {
			return ports.ErrUnavailable
		}
		return nil
	}
	for _, step := range []struct {
		policy string
		cost   domain.Tokens
		want   decision.Outcome
	}{
		{"open", 3, decision.OutcomeAllowed},
		{"closed", 1, decision.OutcomeUnavailable},
		{"local", 3, decision.OutcomeAllowed},
		{"trial", 2, decision.OutcomeDenied},
		{"trial", 1, decision.OutcomeAllowed},
		{"other", 2, decision.OutcomeDenied}, // this process's memory has one bucket for all policies, too
		{"other", 1, decision.OutcomeAllowed},
	} {
		assert.Equal(t, step.want, s.must(t, under(step.policy, domain.OpTake, "a", "t", step.cost)).Outcome, "%+v", step)
	}
	assert.Equal(t, map[string]int64{tenantT: 0}, s.local.levels())
}

func TestInspect_looksAtASharedLimitByItsName(t *testing.T) {
	s := sharing(t, policy.Policy{Name: "read"}, policy.Policy{Name: "write"})
	require.True(t, s.must(t, under("read", domain.OpTake, "a", "big", 3)).Allowed())
	require.True(t, s.must(t, under("read", domain.OpTake, "b", "", 2)).Allowed())
	for _, c := range []struct {
		policy, key, source string
		left                map[string]domain.Tokens
	}{
		{"shared/tenant", "big", "", map[string]domain.Tokens{"tenant": 5}},
		{"shared/tenant", "t", "header:x-tenant", map[string]domain.Tokens{"tenant": 4}},
		{"shared/tenant", "192.0.2.7", "ip", map[string]domain.Tokens{"tenant": 2}},
		{"read", "a", "", map[string]domain.Tokens{"burst": 0}},
		{"read", "192.0.2.7", "ip", map[string]domain.Tokens{"burst": 3}},
	} {
		report, err := s.Inspect(t.Context(), ports.ClientID{Policy: c.policy, Key: c.key, Source: c.source})
		require.NoError(t, err)
		left := map[string]domain.Tokens{}
		for _, l := range report.Limits {
			left[l.Limit.Name()] = l.Limit.Remaining(l.State)
		}
		assert.Equal(t, c.left, left, "%+v", c)
		assert.Equal(t, c.policy, report.Policy)
	}
	require.NoError(t, s.Reset(t.Context(), ports.ClientID{Policy: "shared/tenant", Key: "big"}))
	assert.Equal(t, int64(8), s.store.levels()["shared/tenant:h:x-tenant=big tenant"])
	assert.Equal(t, int64(0), s.store.levels()["read:h:x-client-id=a burst"])
	require.NoError(t, s.Reset(t.Context(), ports.ClientID{Policy: "read", Key: "a"}))
	assert.ElementsMatch(t, []string{"burst"}, slices.Collect(maps.Keys(s.store.buckets["read:h:x-client-id=a"])))

	_, err := s.Inspect(t.Context(), ports.ClientID{Policy: "read", Key: "t", Source: "header:x-tenant"})
	require.ErrorContains(t, err, "must be one of the policy's keys: header:x-client-id; ip; the limit that policies share by this key is the policy shared/tenant")
	_, err = s.Inspect(t.Context(), ports.ClientID{Policy: "read", Key: "t", Source: "header:x-org"})
	require.NotContains(t, err.Error(), "share")
	_, err = s.Inspect(t.Context(), ports.ClientID{Policy: "shared/none", Key: "t"})
	require.ErrorIs(t, err, ports.ErrUnknownPolicy)
	_, err = s.Decide(t.Context(), under("shared/tenant", domain.OpTake, "a", "t", 1))
	require.ErrorIs(t, err, ports.ErrUnknownPolicy, "it has no failure mode of its own")
}

func TestInspect_policyOfSharedLimitsAloneNamesOne(t *testing.T) {
	tenant, err := policy.NewShared(mustLimit(t, "tenant", "1/h", 4), clientkey.Key{byTenant})
	require.NoError(t, err)
	p := policy.Policy{Key: clientkey.Key{byHeader}}
	p.Use(tenant)
	s := fixtureOf(t, p)
	require.True(t, s.must(t, of("", "t", 3)).Allowed())
	assert.Equal(t, map[string]int64{tenantT: 1}, s.store.levels())
	_, err = s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: "a"})
	require.EqualError(t, err, `policy: "default": has no limits of its own, only shared ones: name one, as in shared/tenant`)
	report, err := s.Inspect(t.Context(), ports.ClientID{Policy: "shared/tenant", Key: "t"})
	require.NoError(t, err)
	assert.Equal(t, domain.Tokens(1), report.Limits[0].Limit.Remaining(report.Limits[0].State))
	_, err = s.Inspect(t.Context(), ports.ClientID{Policy: "shared/burst", Key: "t"})
	require.ErrorIs(t, err, ports.ErrUnknownPolicy)
}
