package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func TestRulesFor_networksOfAddresses(t *testing.T) {
	burst := []domain.Limit{named(t, "burst", 1)}
	for source, clients := range map[clientkey.SourceKind]map[string]int{
		clientkey.SourceIP: {
			"192.0.2.0": 0, "192.0.2.255": 0, "192.0.3.0": 2, "10.1.2.3": 1, "10.1.2.4": 2, "10.99.0.1": 2, "11.0.0.1": -1,
			"2001:db8:1::/64": 0, "2001:db8:1:ffff::/64": 0, "2001:db8:2::/64": -1, "2001:db8:9::/64": 1,
			"a name": -1, "": -1, "192.0.2.0/24": -1,
		},
		clientkey.SourceIP48: {"192.0.2.7": 0, "2001:db8:1::/48": 0, "2001:db8:2::/48": -1, "2001:db8:9::/48": 1},
	} {
		p := compiledPolicy(t, policy.Policy{Key: clientkey.Key{{Kind: source}}, Overrides: []policy.Override{
			{Keys: []string{"192.0.2.0/24", "2001:db8:1::/48"}, Limits: burst},
			{Keys: []string{"::ffff:10.1.2.3", "2001:db8:9::5"}, Limits: burst},
			{Keys: []string{"10.0.0.0/8", "192.0.0.0/16"}, Limits: burst},
		}})
		for client, want := range clients {
			assert.Equal(t, want, p.RulesFor(client, false).Override, "%v %q", source, client)
			assert.Equal(t, -1, p.RulesFor(client, true).Override, "%v %q that stood in", source, client)
		}
		assert.Zero(t, testing.AllocsPerRun(10, func() { p.RulesFor("192.0.2.7", false) }))
	}
	every := compiledPolicy(t, policy.Policy{Exempt: []string{"0.0.0.0/0"}, Block: []string{"192.0.2.7"}})
	assert.True(t, every.RulesFor("192.0.2.6", false).Exempt)
	assert.True(t, every.RulesFor("192.0.2.7", false).Blocked, "block goes before exempt")
	assert.False(t, every.RulesFor("2001:db8::/64", false).Exempt, "another family")
}

func TestRulesFor_networksAreTextForOtherKeys(t *testing.T) {
	for _, key := range []clientkey.Key{{byTenant}, {byIP, byTenant}} {
		p := compiledPolicy(t, policy.Policy{Key: key, Exempt: []string{"192.0.2.0/24", "a/b"}})
		assert.False(t, p.RulesFor("192.0.2.1", false).Exempt, key)
		assert.True(t, p.RulesFor("192.0.2.0/24", false).Exempt, key)
		assert.True(t, p.RulesFor("a/b", false).Exempt, key)
	}
}

func TestCompile_refusesWhatIsNoNetwork(t *testing.T) {
	for pattern, want := range map[string]string{
		"office/7":             "must be a network as in 192.0.2.0/24 or 2001:db8::/48, since clients are addresses here",
		"192.0.2.0/33":         "must be a network as in 192.0.2.0/24 or 2001:db8::/48, since clients are addresses here",
		"192.0.2.1/24":         "has bits beyond its length: 192.0.2.0/24 is the network",
		"2001:db8::/65":        "is less than a client: IPv6 is cut to its /64",
		"::ffff:192.0.2.0/120": "must be written as IPv4",
	} {
		p := policy.Policy{Name: "p", Limits: []domain.Limit{named(t, "burst", 1)}, Exempt: []string{pattern}}
		var wrong *domain.FieldError
		require.ErrorAs(t, p.Compile(), &wrong, pattern)
		assert.Equal(t, want, wrong.Reason)
		assert.Equal(t, "exempt", wrong.Field)
		p.Exempt, p.Overrides = nil, []policy.Override{{Keys: []string{pattern}, Limits: p.Limits}}
		require.ErrorAs(t, p.Compile(), &wrong, pattern)
		assert.Equal(t, "overrides", wrong.Field)
	}
	p := policy.Policy{Name: "p", Key: clientkey.Key{{Kind: clientkey.SourceIP48}}, Limits: []domain.Limit{named(t, "burst", 1)}}
	p.Block = []string{"2001:db8::/49"}
	assert.ErrorContains(t, p.Compile(), "cut to its /48")
}
