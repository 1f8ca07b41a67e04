package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func named(t require.TestingT, name string, capacity domain.Tokens) domain.Limit {
	l, err := domain.NewBucket(name, capacity, 1, time.Second)
	require.NoError(t, err)
	return l
}

func compiledPolicy(t require.TestingT, p policy.Policy) *policy.Policy {
	if p.Name == "" {
		p.Name = "search"
	}
	if p.OnStoreFailure == "" {
		p.OnStoreFailure = policy.FailOpen
	}
	if p.Limits == nil {
		p.Limits = []domain.Limit{named(t, "burst", 10)}
	}
	require.NoError(t, p.Compile())
	return &p
}

func TestCompile_limitsOfOneKeyAreOneGroup(t *testing.T) {
	global := clientkey.Key{{Kind: clientkey.SourceGlobal}}
	p := compiledPolicy(t, policy.Policy{
		Key:    clientkey.Key{byTenant},
		Limits: []domain.Limit{named(t, "all", 1), named(t, "burst", 2), named(t, "daily", 3), named(t, "site", 4)},
		LimitKeys: map[string]clientkey.Key{
			"all": global, "site": global, "daily": {byTenant}, // the policy's own, said again
		},
	})
	groups := p.Groups()
	require.Len(t, groups, 2)
	assert.Equal(t, policy.Group{
		GroupKey: &policy.GroupKey{Owner: "search", Key: global, FixedKey: "search:g=", Positions: []int{0, 3}},
		Limits:   []domain.Limit{p.Limits[0], p.Limits[3]},
	}, groups[0])
	assert.Equal(t, policy.Group{
		GroupKey: &policy.GroupKey{Owner: "search", Key: clientkey.Key{byTenant}, Positions: []int{1, 2}, ByPolicyKey: true},
		Limits:   []domain.Limit{p.Limits[1], p.Limits[2]},
	}, groups[1])
	assert.True(t, p.Compiled())
}

func TestCompile_costOfThePolicyDoesNotConcernLimitsWithTheirOwn(t *testing.T) {
	own, err := named(t, "requests", 10).WithCost(10)
	require.NoError(t, err)
	tokens := named(t, "tokens", 500)
	p := policy.Policy{
		Name: "search", OnStoreFailure: policy.FailOpen, Cost: policy.Cost{Fixed: 500}, Limits: []domain.Limit{own, tokens},
		Overrides: []policy.Override{{Keys: []string{"a"}, Limits: []domain.Limit{own}}},
	}
	require.NoError(t, p.Validate())
	p.Limits[0] = named(t, "requests", 10)
	require.EqualError(t, p.Validate(), "cost: 500: must be at most 10, the capacity of the limit requests: a request that costs more never passes")
	p.Limits[0], p.Cost.Fixed = own, 501
	require.EqualError(t, p.Validate(), "cost: 501: must be at most 500, the capacity of the limit tokens: a request that costs more never passes")
}

func concurrent(t require.TestingT, name string) domain.Limit {
	l, err := domain.NewConcurrency(name, 5, time.Minute)
	require.NoError(t, err)
	return l
}

func TestConcurrencyLimit_namesTheFirstOfAnyClient(t *testing.T) {
	burst, parallel := named(t, "burst", 10), concurrent(t, "parallel")
	shared := func(l domain.Limit, overrides ...policy.Override) *policy.Policy {
		s, err := policy.NewShared(l, nil, overrides...)
		require.NoError(t, err)
		p := &policy.Policy{Limits: []domain.Limit{named(t, "other", 1)}}
		p.Use(s)
		return p
	}
	forSome := []policy.Override{{Keys: []string{"a"}, Limits: []domain.Limit{concurrent(t, "burst")}}}
	for want, policies := range map[string][]*policy.Policy{
		"":         {{}, {Limits: []domain.Limit{burst}}, shared(burst)},
		"parallel": {{Limits: []domain.Limit{burst, parallel, concurrent(t, "more")}}, shared(parallel)},
		"burst":    {{Limits: []domain.Limit{burst}, Overrides: forSome}, shared(burst, forSome...)},
	} {
		for i, p := range policies {
			assert.Equal(t, want, p.ConcurrencyLimit(), "%s %d", want, i)
		}
	}
}

func TestValidate_refusesPermitsForEnvoyAndWaitsWithoutABucket(t *testing.T) {
	entry, err := policy.ParseDescriptorPattern("a")
	require.NoError(t, err)
	p := policy.Policy{
		Name: "edge", OnStoreFailure: policy.FailOpen, Limits: []domain.Limit{concurrent(t, "parallel")},
		Match: policy.Match{Domain: "edge", Descriptor: []policy.DescriptorPattern{entry}},
	}
	require.EqualError(t, p.Validate(),
		`match.domain: "edge": a policy for Envoy cannot have the concurrency limit parallel: Envoy does not say when a request ends`)
	p.Match = policy.Match{}
	require.NoError(t, p.Validate())
	p.MaxWait = time.Second
	require.EqualError(t, p.Validate(), "max_wait: 1s: needs a limit with a rate: requests wait for the tokens of a rate, and not for a permit or a quota's next period")
	p.Limits = append(p.Limits, named(t, "burst", 1))
	require.NoError(t, p.Validate())
	for _, wait := range []time.Duration{-1, policy.MaxMaxWait + 1} {
		p.MaxWait = wait
		require.ErrorContains(t, p.Validate(), "max_wait: "+wait.String()+": must be from 0s to 1h")
	}
}

func TestParseMaxWait(t *testing.T) {
	for s, want := range map[string]string{
		"1h1ns": `"1h1ns": must be in whole microseconds`, "1h1us": `"1h1us": must be from 0s to 1h`, "1": `"1": must be a duration with a unit`,
	} {
		_, err := policy.ParseMaxWait(s)
		require.ErrorContains(t, err, "max_wait: "+want)
		require.ErrorIs(t, err, domain.ErrInvalidPolicy)
	}
	wait, err := policy.ParseMaxWait("60m")
	require.NoError(t, err)
	assert.Equal(t, time.Hour, wait)
}

func TestCompile_policyWithoutAKeyCountsByTheAddressOrTheDescriptor(t *testing.T) {
	p := compiledPolicy(t, policy.Policy{})
	assert.Equal(t, clientkey.Key{byIP}, p.Groups()[0].Key)
	assert.True(t, p.Groups()[0].ByPolicyKey)
	p = compiledPolicy(t, policy.Policy{Match: policy.Match{Domain: "edge", Descriptor: descriptor(t, "remote_address")}})
	assert.Equal(t, clientkey.Key{{Kind: clientkey.SourceDescriptor}}, p.Groups()[0].Key)
}

func TestRulesFor(t *testing.T) {
	p := compiledPolicy(t, policy.Policy{
		Key:       clientkey.Key{byTenant},
		Limits:    []domain.Limit{named(t, "burst", 10), named(t, "daily", 100), named(t, "site", 1000)},
		LimitKeys: map[string]clientkey.Key{"site": {{Kind: clientkey.SourceGlobal}}},
		Overrides: []policy.Override{
			{Keys: []string{"partner-*", "acme"}, Limits: []domain.Limit{named(t, "burst", 20)}},
			{Keys: []string{"partner-gold", "*-vip", "eu-*-x"}, Limits: []domain.Limit{named(t, "daily", 200)}},
			{Keys: []string{"*"}, Limits: []domain.Limit{named(t, "burst", 5)}},
		},
		Exempt: []string{"health-*", "both"},
		Block:  []string{"banned-1", "both"},
	})
	for client, want := range map[string]int{
		"partner-": 0, "partner-7": 0, "partner-gold": 0, "partner-vip": 0, "acme": 0,
		"a-vip": 1, "-vip": 1, "eu--x": 1, "eu-a-x": 1,
		"vip": 2, "eu-x": 2, "acme2": 2, "Acme": 2, "partner": 2, "": 2, strings.Repeat("z", 5000): 2,
		strings.Repeat("z", 5000) + "-vip": 1, "partner-" + strings.Repeat("z", 5000): 0, "eu-" + strings.Repeat("z", 5000) + "-x": 1,
	} {
		rules := p.RulesFor(client, false)
		assert.Equal(t, want, rules.Override, "%.40q", client)
		require.Len(t, rules.Groups, 2)
	}
	gold := p.RulesFor("a-vip", false).Groups
	assert.Equal(t, []domain.Limit{p.Limits[0], p.Overrides[1].Limits[0]}, gold[0].Limits, "those not named stay")
	assert.Equal(t, p.Limits[2:], gold[1].Limits)

	assert.Equal(t, &policy.Rules{Exempt: true, Override: -1}, p.RulesFor("health-1", false))
	assert.Equal(t, &policy.Rules{Blocked: true, Override: -1}, p.RulesFor("banned-1", false))
	assert.Equal(t, &policy.Rules{Blocked: true, Override: -1}, p.RulesFor("both", false), "block goes before exempt")
}

func TestRulesFor_fallbackKeyMatchesNoOtherClientsPatterns(t *testing.T) {
	burst := []domain.Limit{named(t, "burst", 1)}
	p := compiledPolicy(t, policy.Policy{
		Overrides: []policy.Override{{Keys: []string{"192.*"}, Limits: burst}}, Exempt: []string{"10.0.0.1"}, Block: []string{"10.0.0.2"},
	})
	for _, address := range []string{"192.0.2.1", "10.0.0.1", "10.0.0.2"} {
		assert.Equal(t, &policy.Rules{Override: -1, Groups: p.Groups()}, p.RulesFor(address, true), address)
	}
	p = compiledPolicy(t, policy.Policy{Overrides: []policy.Override{{Keys: []string{"*"}, Limits: burst}}})
	assert.Zero(t, p.RulesFor("192.0.2.1", true).Override, "a limit for everybody is for those without a key, too")
}

// The index finds what asking every pattern in turn would find.
func TestRulesFor_agreesWithAWalkOverAllPatterns(t *testing.T) {
	part := rapid.StringMatching(`[ab]{0,4}`)
	rapid.Check(t, func(t *rapid.T) {
		p := policy.Policy{}
		for range rapid.IntRange(1, 30).Draw(t, "overrides") {
			pattern := part.Draw(t, "before")
			if pattern == "" || rapid.Bool().Draw(t, "star") {
				pattern += "*" + part.Draw(t, "after")
			}
			p.Overrides = append(p.Overrides, policy.Override{Keys: []string{pattern}, Limits: []domain.Limit{named(t, "burst", 1)}})
		}
		policy := compiledPolicy(t, p)
		for range 20 {
			client := rapid.StringMatching(`[ab]{0,10}`).Draw(t, "client")
			want := -1
			for i := len(p.Overrides) - 1; i >= 0; i-- {
				if matches(p.Overrides[i].Keys[0], client) {
					want = i
				}
			}
			require.Equal(t, want, policy.RulesFor(client, false).Override, "%q under %v", client, p.Overrides)
		}
	})
}

func matches(pattern, s string) bool {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	return len(s) >= len(before)+len(after) && strings.HasPrefix(s, before) && strings.HasSuffix(s, after)
}

// overridesOf makes n overrides of every kind of pattern.
func overridesOf(t testing.TB, n int) *policy.Policy {
	burst := []domain.Limit{named(t, "burst", 1)}
	var p policy.Policy
	for i := range n {
		pattern := fmt.Sprintf([]string{"client-%d", "group-%d-*", "*-site-%d", "eu-%d-*-x"}[i%4], i)
		p.Overrides = append(p.Overrides, policy.Override{Keys: []string{pattern}, Limits: burst})
	}
	return compiledPolicy(t, p)
}

func BenchmarkRulesFor(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		p := overridesOf(b, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.RulesFor("group-9-someone-elses-site-7", false)
			}
		})
	}
}

func TestPolicy_aLimitWithACostOfItsOwnNeedNotPayThePolicys(t *testing.T) {
	calls, err := named(t, "calls", 3).WithCost(1)
	require.NoError(t, err)
	compiledPolicy(t, policy.Policy{Cost: policy.Cost{Fixed: 5}, Limits: []domain.Limit{named(t, "tokens", 10), calls}})
}
