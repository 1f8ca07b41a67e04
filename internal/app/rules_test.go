package app_test

import (
	"net/netip"
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

// having is a request of this client with these values, at a cost of 1.
func having(address string, values map[string]string) policy.Request {
	req := policy.Request{Cost: 1, Lookup: func(s clientkey.Source) (string, error) { return values[s.String()], nil }}
	if address != "" {
		req.Client = netip.MustParseAddr(address)
	}
	return req
}

func TestDecide_findsTheBucketOfEachKey(t *testing.T) {
	const v4, v6 = "192.0.2.7", "2001:db8:1:2:3::4"
	values := map[string]string{"header:x-tenant": "acme", "cookie:sid": "S&1", "query:api_key": "a b"}
	named := having(v4, nil)
	named.Key = "10.0.0.1&x%26y"
	for name, c := range map[string]struct {
		key     string
		req     policy.Request
		bucket  clientkey.BucketKey
		client  string
		missing bool
	}{
		"ip/48":                    {"ip/48", having(v6, nil), "default:ip/48=2001%3Adb8%3A1%3A%3A/48", "2001:db8:1::/48", false},
		"ip/48 of IPv4":            {"ip/48", having(v4, nil), "default:ip/48=192.0.2.7", v4, false},
		"cookie":                   {"cookie:sid", having(v4, values), "default:c:sid=S%261", "S&1", false},
		"query":                    {"query:api_key", having(v4, values), "default:q:api_key=a b", "a b", false},
		"global":                   {"global", having("", nil), "default:g=", "", false},
		"missing cookie":           {"cookie:other", having(v6, values), "default:ip=2001%3Adb8%3A1%3A2%3A%3A/64", "2001:db8:1:2::/64", true},
		"list":                     {"ip, header:x-tenant", having(v4, values), "default:ip=192.0.2.7&h:x-tenant=acme", "192.0.2.7&acme", false},
		"list, parts kept apart":   {"cookie:sid, query:api_key", having(v4, values), "default:c:sid=S%261&q:api_key=a b", "S%261&a b", false},
		"list, a part missing":     {"header:x-tenant, cookie:other", having(v4, values), "default:h:x-tenant=acme&ip=192.0.2.7", "acme&192.0.2.7", true},
		"list, named":              {"ip, header:x-tenant", named, "default:ip=10.0.0.1&h:x-tenant=x%26y", "10.0.0.1&x%26y", false},
		"an address that is named": {"ip/48", policy.Request{Cost: 1, Key: v6}, "default:ip/48=2001%3Adb8%3A1%3A%3A/48", "2001:db8:1::/48", false},
		"global, whatever named":   {"global", policy.Request{Cost: 1, Key: "x"}, "default:g=", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := clientkey.Parse(c.key)
			require.NoError(t, err)
			s := fixtureOf(t, policy.Policy{Key: key, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3)}})
			d, err := s.Decide(t.Context(), c.req)
			require.NoError(t, err)
			assert.Equal(t, []clientkey.BucketKey{c.bucket}, s.store.keys())
			assert.Equal(t, c.client, d.Client)
			assert.Equal(t, c.missing, d.UsedFallbackKey)
		})
	}
}

func TestDecide_countsByTheDescriptor(t *testing.T) {
	p := policy.Policy{
		Match: policy.Match{Domain: "edge"}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3)},
	}
	for _, entry := range []string{"generic_key=login", "remote_address"} {
		pattern, err := policy.ParseDescriptorPattern(entry)
		require.NoError(t, err)
		p.Match.Descriptor = append(p.Match.Descriptor, pattern)
	}
	s := fixtureOf(t, p)
	_, err := s.Decide(t.Context(), policy.Request{
		Cost: 1, Domain: "edge", Descriptor: []policy.DescriptorEntry{{Key: "generic_key", Value: "login"}, {Key: "remote_address", Value: "192.0.2.1"}},
	})
	require.NoError(t, err)
	assert.Equal(t, []clientkey.BucketKey{"default:d=192.0.2.1"}, s.store.keys())
	_, err = s.Decide(t.Context(), policy.Request{Cost: 1, Domain: "edge", Client: netip.MustParseAddr("192.0.2.1")})
	require.NoError(t, err, "a caller without a descriptor is counted by its address, as any that lacks the key")
}

func TestDecide_namesTheKeyThatIsMissing(t *testing.T) {
	for key, want := range map[string]string{
		"header:x-tenant": "key", "ip": "key", "ip, header:x-tenant": "ip", "header:x-tenant, cookie:sid": "header:x-tenant",
	} {
		parsed, err := clientkey.Parse(key)
		require.NoError(t, err)
		s := fixtureOf(t, policy.Policy{Key: parsed, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3)}})
		_, err = s.Decide(t.Context(), policy.Request{Cost: 1})
		var field *domain.FieldError
		require.ErrorAs(t, err, &field, key)
		assert.Equal(t, want, field.Field)
		_, err = s.Decide(t.Context(), policy.Request{Cost: 1, Key: "a%&b&c"})
		if len(parsed) > 1 {
			require.ErrorAs(t, err, &field, key)
			assert.Equal(t, "key", field.Field)
		}
	}
}

func TestDecide_addressThatIsNamedCountsForOtherKeysToo(t *testing.T) {
	s := fixtureOf(t, policy.Policy{
		Limits:    []domain.Limit{mustLimit(t, "burst", "1/h", 3), mustLimit(t, "site", "1/h", 9)},
		LimitKeys: map[string]clientkey.Key{"site": {{Kind: clientkey.SourceIP48}}},
	})
	_, err := s.Decide(t.Context(), policy.Request{Cost: 1, Key: "2001:db8:1:2::5"})
	require.NoError(t, err)
	assert.ElementsMatch(t, []clientkey.BucketKey{"default:ip=2001%3Adb8%3A1%3A2%3A%3A/64", "default:ip/48=2001%3Adb8%3A1%3A%3A/48"}, s.store.keys())
}

func TestDecide_policyWithoutALimitOfItsOwnKeyNeedsNone(t *testing.T) {
	s := fixtureOf(t, policy.Policy{
		Limits: []domain.Limit{mustLimit(t, "all", "1/h", 3)}, LimitKeys: map[string]clientkey.Key{"all": {{Kind: clientkey.SourceGlobal}}},
	})
	d, err := s.Decide(t.Context(), policy.Request{Cost: 1})
	require.NoError(t, err)
	assert.True(t, d.Allowed())
	assert.Equal(t, []clientkey.BucketKey{"default:g="}, s.store.keys())
}

func TestDecide_rules(t *testing.T) {
	s := fixtureOf(t, policy.Policy{
		Key:       clientkey.Key{byHeader},
		Limits:    []domain.Limit{mustLimit(t, "burst", "1/h", 3), mustLimit(t, "daily", "1/h", 30)},
		Overrides: []policy.Override{{Keys: []string{"partner-*"}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 20)}}},
		Exempt:    []string{"health-*", "192.*"}, Block: []string{"banned-1"},
	})
	for client, c := range map[string]struct {
		outcome  decision.Outcome
		capacity domain.Tokens
	}{
		"a": {decision.OutcomeAllowed, 3}, "partner-1": {decision.OutcomeAllowed, 20},
		"health-1": {decision.OutcomeExempt, 0}, "banned-1": {decision.OutcomeBlocked, 0},
	} {
		d, err := s.Decide(t.Context(), policy.Request{Key: client, Cost: 1, ID: client})
		require.NoError(t, err)
		assert.Equal(t, c.outcome, d.Outcome, client)
		assert.Equal(t, client, d.Client)
		if c.capacity == 0 {
			assert.Empty(t, d.Limits)
			assert.Equal(t, decision.StorePolicy, d.Store)
			assert.Equal(t, c.outcome == decision.OutcomeExempt, d.Allowed())
			continue
		}
		require.Len(t, d.Limits, 2)
		assert.Equal(t, c.capacity, d.Limits[0].Capacity)
		assert.Equal(t, domain.Tokens(30), d.Limits[1].Capacity)
	}
	assert.Len(t, s.observer.decisions, 4, "each is reported")
	assert.Len(t, s.store.keys(), 2, "a client that is exempt or blocked touches no bucket")

	d, err := s.Decide(t.Context(), having("192.0.2.7", nil))
	require.NoError(t, err)
	assert.Equal(t, decision.OutcomeAllowed, d.Outcome, "a pattern does not match an address that takes the place of a missing key")
	assert.True(t, d.UsedFallbackKey)
}

func TestDecide_shadowDecidesAndLetsPass(t *testing.T) {
	s := fixtureOf(t, policy.Policy{
		Key: clientkey.Key{byHeader}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3)}, Mode: policy.ModeShadow,
		Block: []string{"banned"}, OnStoreFailure: policy.FailClosed,
	})
	d, err := s.Decide(t.Context(), policy.Request{Key: "a", Cost: 4})
	require.NoError(t, err)
	assert.Equal(t, decision.OutcomeDenied, d.Outcome)
	assert.True(t, d.Shadow)
	assert.True(t, d.Allowed())
	d, err = s.Decide(t.Context(), policy.Request{Key: "banned", Cost: 1})
	require.NoError(t, err)
	assert.False(t, d.Allowed(), "shadow mode does not let a blocked client pass")
	s.store.fail = failing(ports.ErrUnavailable)
	d, err = s.Decide(t.Context(), policy.Request{Key: "a", Cost: 1})
	require.NoError(t, err)
	assert.Equal(t, decision.OutcomeUnavailable, d.Outcome)
	assert.True(t, d.Allowed())
}

func TestDecide_costOfThePolicy(t *testing.T) {
	fixed, header := policy.Cost{Fixed: 2}, policy.Cost{Header: "x-cost"}
	for name, c := range map[string]struct {
		cost    policy.Cost
		value   string
		trusted bool
		want    domain.Tokens
		err     error
	}{
		"none":                 {policy.Cost{}, "", true, 1, nil},
		"fixed":                {fixed, "", false, 2, nil},
		"header":               {header, "3", true, 3, nil},
		"header, not trusted":  {header, "3", false, 1, nil},
		"no header":            {header, "", true, 1, nil},
		"header of zero":       {header, "0", true, 0, domain.ErrInvalidRequest},
		"header below zero":    {header, "-1", true, 0, domain.ErrInvalidRequest},
		"header too high":      {header, "2147483648", true, 0, domain.ErrInvalidRequest},
		"header beyond 64 bit": {header, "99999999999999999999", true, 0, domain.ErrInvalidRequest},
		"header that is no number": {
			header, "1.5", true, 0, domain.ErrMalformedRequest,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := fixtureOf(t, policy.Policy{Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 10)}, Cost: c.cost})
			req := having("192.0.2.7", map[string]string{"header:x-cost": c.value})
			req.PolicyCost, req.Trusted, req.Cost = true, c.trusted, 7
			d, err := s.Decide(t.Context(), req)
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
				require.ErrorContains(t, err, "x-cost")
				assert.Zero(t, s.store.calls)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.want, d.Cost)
			assert.Equal(t, 10-c.want, d.Limits[0].Remaining)
		})
	}
	s := newFixture(t, byHeader, policy.FailOpen)
	d, err := s.Decide(t.Context(), policy.Request{Key: "a", Cost: 2})
	require.NoError(t, err)
	assert.Equal(t, domain.Tokens(2), d.Cost, "a cost that the caller names is used as it is")
}

func TestDecide_refundGivesBackWhatWasTakenUnderThatPolicy(t *testing.T) {
	p := threeKeys(t)
	p.RefundOn, _ = policy.ParseRefundOn("2xx")
	p.Cost = policy.Cost{Fixed: 2}
	s := fixtureOf(t, p)
	req := of("a", "t", 1)
	req.PolicyCost = true
	d, err := s.Decide(t.Context(), req)
	require.NoError(t, err)
	require.True(t, d.RefundOn.Has(204))
	require.False(t, d.RefundOn.Has(401))

	other := newFixture(t, byAddress, policy.FailOpen) // other policies came into force meanwhile
	limiter := other.RateLimiter
	other.store.buckets = s.store.buckets
	_, err = limiter.Decide(t.Context(), d.Refund(req))
	require.NoError(t, err)
	assert.Equal(t, map[string]int64{
		"default:g= all": 5, "default:h:x-client-id=a burst": 3, "default:h:x-client-id=a daily": 30, "default:h:x-tenant=t tenant": 4,
	}, other.store.levels())

	req.PolicyCost, req.Cost = false, 4
	d, err = s.Decide(t.Context(), req)
	require.NoError(t, err)
	require.False(t, d.Allowed())
	assert.True(t, d.RefundOn.Empty(), "a denial took nothing")
}

func TestDecide_ownPolicyMustBeCompiled(t *testing.T) {
	s := newFixture(t, byHeader, policy.FailOpen)
	_, err := s.Decide(t.Context(), policy.Request{CallerPolicy: &policy.Policy{Name: "own"}, Key: "a", Cost: 1})
	require.ErrorIs(t, err, domain.ErrInvalidRequest)
}

// uncompiled is a source that has forgotten to compile its policy.
type uncompiled struct{}

func (uncompiled) Named(name string) (*policy.Policy, error) { return &policy.Policy{Name: name}, nil }

func (uncompiled) Shared(string) (*policy.Shared, error) { return nil, ports.ErrUnknownPolicy }

func (uncompiled) Match(*policy.Request) (*policy.Policy, error) {
	return &policy.Policy{Name: "matched"}, nil
}

func TestDecide_aSourcesPolicyMustBeCompiled(t *testing.T) {
	limiter := app.NewRateLimiter(&fakeStore{}, &fakeStore{}, uncompiled{}, &fakeObserver{})
	for _, policyName := range []string{"", "named"} {
		_, err := limiter.Decide(t.Context(), policy.Request{Policy: policyName, Key: "a", Cost: 1})
		require.ErrorIs(t, err, domain.ErrInvalidPolicy)
	}
	id := ports.ClientID{Policy: "named", Key: "a"}
	_, err := limiter.Inspect(t.Context(), id)
	require.ErrorIs(t, err, domain.ErrInvalidPolicy)
	require.ErrorIs(t, limiter.Reset(t.Context(), id), domain.ErrInvalidPolicy)
}

func TestInspect_readsTheBucketsOfEachKey(t *testing.T) {
	s := fixtureOf(t, threeKeys(t))
	_, err := s.Decide(t.Context(), of("a", "t", 2))
	require.NoError(t, err)
	for source, c := range map[string]struct {
		key    string
		limits []string
	}{
		"": {"a", []string{"burst", "daily"}}, "header:x-client-id": {"a", []string{"burst", "daily"}},
		"header:x-tenant": {"t", []string{"tenant"}}, "global": {"-", []string{"all"}},
		"ip": {"192.0.2.7", []string{"burst", "daily", "tenant"}},
	} {
		report, err := s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: c.key, Source: source})
		require.NoError(t, err, source)
		var names []string
		for _, l := range report.Limits {
			names = append(names, l.Limit.Name())
			left := l.Limit.Remaining(l.State)
			assert.Equal(t, source != "ip", left == l.Limit.Capacity()-2, "%s %s", source, l.Limit.Name())
		}
		assert.ElementsMatch(t, c.limits, names, source)
	}
	_, err = s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: "a", Source: "cookie:sid"})
	require.ErrorContains(t, err, `source: "cookie:sid": must be one of the policy's keys: global; header:x-client-id; header:x-tenant; ip`)
	require.NoError(t, s.Reset(t.Context(), ports.ClientID{Policy: "default", Key: "x", Source: "global"}))
	assert.Equal(t, int64(5), s.store.levels()["default:g= all"])
}

func TestInspect_showsTheLimitsThatApplyToTheClient(t *testing.T) {
	s := fixtureOf(t, policy.Policy{
		Key: clientkey.Key{byHeader}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 3)},
		Overrides: []policy.Override{{Keys: []string{"partner-*"}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 20)}}},
	})
	report, err := s.Inspect(t.Context(), ports.ClientID{Policy: "default", Key: "partner-1"})
	require.NoError(t, err)
	assert.Equal(t, domain.Tokens(20), report.Limits[0].Limit.Capacity())
}
