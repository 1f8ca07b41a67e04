package policy_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// sharedOf returns a shared limit of 100 tokens by the header x-tenant.
func sharedOf(t *testing.T, name string, overrides ...policy.Override) *policy.Shared {
	t.Helper()
	s, err := policy.NewShared(named(t, name, 100), clientkey.Key{byTenant}, overrides...)
	require.NoError(t, err)
	return s
}

// using returns a policy with a limit of its own between two shared ones.
func using(t *testing.T, first, last *policy.Shared) policy.Policy {
	t.Helper()
	p := policy.Policy{Name: "search", Key: clientkey.Key{byTenant}, OnStoreFailure: policy.FailOpen}
	p.Use(first)
	p.Limits = append(p.Limits, named(t, "burst", 10))
	p.Use(last)
	return p
}

func TestUse_sharedLimitIsAGroupOfItsOwnAtItsPosition(t *testing.T) {
	tenant, org := sharedOf(t, "tenant"), sharedOf(t, "org")
	p := using(t, tenant, org)
	require.NoError(t, p.Compile())
	groups := p.Groups()
	require.Len(t, groups, 3, "also of limits with the policy's key")
	assert.Equal(t, policy.Group{
		GroupKey: &policy.GroupKey{Owner: "shared/tenant", Key: clientkey.Key{byTenant}, Positions: []int{0}, Shared: tenant},
		Limits:   p.Limits[:1],
	}, groups[0])
	assert.Equal(t, policy.Group{
		GroupKey: &policy.GroupKey{Owner: "search", Key: clientkey.Key{byTenant}, Positions: []int{1}, ByPolicyKey: true},
		Limits:   p.Limits[1:2],
	}, groups[1])
	assert.Equal(t, "shared/org", groups[2].Owner)
	assert.Equal(t, []int{2}, groups[2].Positions)
	assert.Equal(t, clientkey.Key{byTenant}, p.KeyOf("org"))
	assert.Equal(t, "shared/org", org.Policy().Name)
}

func TestUse_sharedLimitStaysUnderAnOverrideOfThePolicy(t *testing.T) {
	p := using(t, sharedOf(t, "tenant"), sharedOf(t, "org"))
	p.Overrides = []policy.Override{{Keys: []string{"acme"}, Limits: []domain.Limit{named(t, "burst", 50)}}}
	require.NoError(t, p.Compile())
	groups := p.RulesFor("acme", false).Groups
	require.Len(t, groups, 3)
	assert.Equal(t, domain.Tokens(50), groups[1].Limits[0].Capacity())
	assert.Equal(t, "shared/org", groups[2].Owner)
}

func TestLimitsFor_anOverrideIsFoundByTheSharedLimitsOwnKey(t *testing.T) {
	tenant := sharedOf(t, "tenant",
		policy.Override{Keys: []string{"acme", "big-*"}, Limits: []domain.Limit{named(t, "tenant", 1000)}},
		policy.Override{Keys: []string{"*"}, Limits: []domain.Limit{named(t, "tenant", 5)}},
	)
	p := using(t, tenant, sharedOf(t, "org"))
	p.Key = clientkey.Key{byIP}
	require.NoError(t, p.Compile())
	group := p.Groups()[0]
	capacity := func(client string, usedFallback bool) domain.Tokens {
		limits := group.LimitsFor([]clientkey.Part{{Source: byTenant, Value: client}}, usedFallback)
		require.Len(t, limits, 1)
		return limits[0].Capacity()
	}
	assert.Equal(t, domain.Tokens(1000), capacity("acme", false))
	assert.Equal(t, domain.Tokens(1000), capacity("big-7", false))
	assert.Equal(t, domain.Tokens(5), capacity("small", false))
	assert.Equal(t, domain.Tokens(5), capacity("acme", true), "an address in place of the key matches the pattern * alone")
	own := p.Groups()[1]
	assert.Equal(t, own.Limits, own.LimitsFor([]clientkey.Part{{Source: byIP, Value: "acme"}}, false))
}

func TestNewShared_refusesWhatAPolicyWouldRefuse(t *testing.T) {
	limit := named(t, "tenant", 100)
	for name, c := range map[string]struct {
		limit     domain.Limit
		key       clientkey.Key
		overrides []policy.Override
		want      string
	}{
		"zero limit": {domain.Limit{}, nil, nil, `name: "": ` + domain.NameRule},
		"key twice":  {limit, clientkey.Key{byIP, byIP}, nil, `key: "ip, ip": has ip twice`},
		"descriptor": {limit, clientkey.Key{{Kind: clientkey.SourceDescriptor}}, nil, `key: "descriptor": must not be a descriptor`},
		"pattern": {
			limit, nil, []policy.Override{{Keys: []string{"a*b*"}, Limits: []domain.Limit{limit}}}, `overrides: "a*b*": must have one * at most`,
		},
		"another limit": {
			limit, nil, []policy.Override{{Keys: []string{"a"}, Limits: []domain.Limit{named(t, "burst", 1)}}}, `overrides: "burst"`,
		},
	} {
		_, err := policy.NewShared(c.limit, c.key, c.overrides...)
		require.ErrorIs(t, err, domain.ErrInvalidPolicy, name)
		assert.ErrorContains(t, err, c.want, name)
	}
}

func TestPolicy_refusesASharedLimitThatCannotBeUsedSo(t *testing.T) {
	acme := policy.Override{Keys: []string{"acme"}, Limits: []domain.Limit{named(t, "tenant", 7)}}
	for name, c := range map[string]struct {
		change func(*policy.Policy)
		want   string
	}{
		"own limit of the name":        {func(p *policy.Policy) { p.Limits[1] = named(t, "tenant", 1) }, `limits: "tenant": there are two limits of this name`},
		"used twice":                   {func(p *policy.Policy) { p.Use(p.Shared["org"]) }, `limits: "org": there are two limits of this name`},
		"override of it":               {func(p *policy.Policy) { p.Overrides = []policy.Override{acme} }, `overrides: "tenant": ` + policy.SharedNotOverridden},
		"not added by Use":             {func(p *policy.Policy) { p.Limits = p.Limits[1:] }, `limits: "tenant": is a shared limit that was not added by Use`},
		"another key":                  {func(p *policy.Policy) { p.LimitKeys = map[string]clientkey.Key{"org": {byIP}} }, `limits: "org": has a key as a shared limit`},
		"cost above a capacity":        {func(p *policy.Policy) { p.Limits, p.Cost.Fixed = slices.Delete(p.Limits, 1, 2), 101 }, `cost: 101: must be at most 100`},
		"cost above that of overrides": {func(p *policy.Policy) { p.Cost.Fixed = 8 }, `cost: 8: must be at most 7, the capacity of the limit tenant for acme`},
		"key that Envoy does not send": {
			func(p *policy.Policy) {
				p.Key, p.Match = nil, policy.Match{Domain: "edge", Descriptor: descriptor(t, "a")}
			}, `limits.tenant.key: "header:x-tenant": requests that match cannot have it`,
		},
		"more than MaxLimits with it": {func(p *policy.Policy) { p.Limits = append(p.Limits, limits(t, policy.MaxLimits-2)...) }, `limits: 33: there must be from 1 to 32`},
	} {
		p := using(t, sharedOf(t, "tenant", acme), sharedOf(t, "org"))
		require.NoError(t, p.Validate())
		c.change(&p)
		assert.ErrorContains(t, p.Validate(), c.want, name)
	}
}

func TestNewSet_holdsTheSharedLimitsOfItsPolicies(t *testing.T) {
	tenant, org := sharedOf(t, "tenant"), sharedOf(t, "org")
	policies := []policy.Policy{using(t, tenant, org)}
	set, err := policy.NewSet(policies, org, tenant)
	require.NoError(t, err)
	assert.Equal(t, []*policy.Shared{org, tenant}, set.AllShared())
	assert.Same(t, tenant, set.SharedNamed("tenant"))
	assert.Nil(t, set.SharedNamed("search"))
	assert.Nil(t, set.Named("shared/tenant"), "no request is decided by it alone")

	_, err = policy.NewSet(policies, org)
	require.ErrorContains(t, err, `policies[0]: limits: "tenant": is not one of the shared limits`)
	_, err = policy.NewSet(policies, org, tenant, sharedOf(t, "org"))
	require.ErrorContains(t, err, `shared: "org": there are two shared limits of this name`)
	_, err = policy.NewSet(policies, slices.Repeat([]*policy.Shared{org}, policy.MaxShared+1)...)
	require.ErrorContains(t, err, `shared: 10001: there must be at most 10000 of them`)
}
