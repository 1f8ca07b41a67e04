package domain_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func named(t require.TestingT, name string, capacity domain.Tokens) domain.Limit {
	l, err := domain.NewLimit(name, capacity, 1, time.Second)
	require.NoError(t, err)
	return l
}

func compiledPolicy(t require.TestingT, p domain.Policy) *domain.Policy {
	if p.Name == "" {
		p.Name = "search"
	}
	if p.OnStoreFailure == "" {
		p.OnStoreFailure = domain.FailOpen
	}
	if p.Limits == nil {
		p.Limits = []domain.Limit{named(t, "burst", 10)}
	}
	require.NoError(t, p.Compile())
	return &p
}

func TestCompile_limitsOfOneKeyAreOneGroup(t *testing.T) {
	global := domain.Key{{Kind: domain.SourceGlobal}}
	p := compiledPolicy(t, domain.Policy{
		Key:    domain.Key{byTenant},
		Limits: []domain.Limit{named(t, "all", 1), named(t, "burst", 2), named(t, "daily", 3), named(t, "site", 4)},
		LimitKeys: map[string]domain.Key{
			"all": global, "site": global, "daily": {byTenant}, // the policy's own, said again
		},
	})
	groups := p.Groups()
	require.Len(t, groups, 2)
	assert.Equal(t, domain.Group{
		Key: global, Limits: []domain.Limit{p.Limits[0], p.Limits[3]}, Places: []int{0, 3},
	}, groups[0])
	assert.Equal(t, domain.Group{
		Key: domain.Key{byTenant}, Limits: []domain.Limit{p.Limits[1], p.Limits[2]}, Places: []int{1, 2}, Own: true,
	}, groups[1])
	assert.True(t, p.Compiled())
}

func TestCompile_policyWithoutAKeyCountsByTheAddressOrTheDescriptor(t *testing.T) {
	p := compiledPolicy(t, domain.Policy{})
	assert.Equal(t, domain.Key{byIP}, p.Groups()[0].Key)
	assert.True(t, p.Groups()[0].Own)
	p = compiledPolicy(t, domain.Policy{Match: domain.Match{Domain: "edge", Descriptor: descriptor(t, "remote_address")}})
	assert.Equal(t, domain.Key{{Kind: domain.SourceDescriptor}}, p.Groups()[0].Key)
}

func TestRulesFor(t *testing.T) {
	p := compiledPolicy(t, domain.Policy{
		Key:       domain.Key{byTenant},
		Limits:    []domain.Limit{named(t, "burst", 10), named(t, "daily", 100), named(t, "site", 1000)},
		LimitKeys: map[string]domain.Key{"site": {{Kind: domain.SourceGlobal}}},
		Overrides: []domain.Override{
			{Keys: []string{"partner-*", "acme"}, Limits: []domain.Limit{named(t, "burst", 20)}},
			{Keys: []string{"partner-gold", "*-vip", "eu-*-x"}, Limits: []domain.Limit{named(t, "daily", 200), named(t, "site", 2000)}},
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
	assert.Equal(t, []domain.Limit{p.Overrides[1].Limits[1]}, gold[1].Limits)

	assert.Equal(t, domain.Rules{Exempt: true, Override: -1}, p.RulesFor("health-1", false))
	assert.Equal(t, domain.Rules{Blocked: true, Override: -1}, p.RulesFor("banned-1", false))
	assert.Equal(t, domain.Rules{Blocked: true, Override: -1}, p.RulesFor("both", false), "block goes before exempt")
}

func TestRulesFor_valueThatStoodInHasNobodyElsesRights(t *testing.T) {
	burst := []domain.Limit{named(t, "burst", 1)}
	p := compiledPolicy(t, domain.Policy{
		Overrides: []domain.Override{{Keys: []string{"192.*"}, Limits: burst}}, Exempt: []string{"10.0.0.1"}, Block: []string{"10.0.0.2"},
	})
	for _, address := range []string{"192.0.2.1", "10.0.0.1", "10.0.0.2"} {
		assert.Equal(t, domain.Rules{Override: -1, Groups: p.Groups()}, p.RulesFor(address, true), address)
	}
	p = compiledPolicy(t, domain.Policy{Overrides: []domain.Override{{Keys: []string{"*"}, Limits: burst}}})
	assert.Zero(t, p.RulesFor("192.0.2.1", true).Override, "a limit for everybody is for those without a key, too")
}

// The index finds what asking every pattern in turn would find.
func TestRulesFor_agreesWithAWalkOverAllPatterns(t *testing.T) {
	part := rapid.StringMatching(`[ab]{0,4}`)
	rapid.Check(t, func(t *rapid.T) {
		p := domain.Policy{}
		for range rapid.IntRange(1, 30).Draw(t, "overrides") {
			pattern := part.Draw(t, "before")
			if pattern == "" || rapid.Bool().Draw(t, "star") {
				pattern += "*" + part.Draw(t, "after")
			}
			p.Overrides = append(p.Overrides, domain.Override{Keys: []string{pattern}, Limits: []domain.Limit{named(t, "burst", 1)}})
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
func overridesOf(t testing.TB, n int) *domain.Policy {
	burst := []domain.Limit{named(t, "burst", 1)}
	var p domain.Policy
	for i := range n {
		pattern := fmt.Sprintf([]string{"client-%d", "group-%d-*", "*-site-%d", "eu-%d-*-x"}[i%4], i)
		p.Overrides = append(p.Overrides, domain.Override{Keys: []string{pattern}, Limits: burst})
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
