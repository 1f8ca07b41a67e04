//go:build !race

package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func TestRulesFor_allocatesNothing(t *testing.T) {
	p := overridesOf(t, 10_000)
	for _, client := range []string{"client-8", "group-9-someone-elses-site-7", "x-site-7", "eu-11-a-x", "unknown"} {
		require.Zero(t, testing.AllocsPerRun(100, func() { p.RulesFor(client, false) }), client)
	}
}

func TestRulesForRequest_allocatesNothing(t *testing.T) {
	f := &facts{values: map[clientkey.Source]string{byPlan: "plan-998", byRegion: "region-8"}, elements: []string{"a", "b"}, address: "192.0.2.1"}
	for name, p := range map[string]*policy.Policy{
		"plans": plans(t, 1000, false), "plans in regions": plans(t, 1000, true),
		"a network and a claim": conditional(t, policy.Policy{Overrides: []policy.Override{when(is(byIP, "192.0.2.0/24"), is(byScope, "b"))}}),
	} {
		rules, err := p.RulesForRequest("", false, f)
		require.NoError(t, err)
		require.NotEqual(t, -1, rules.Override, name)
		require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = p.RulesForRequest("client-9", false, f) }), name)
	}
}

func TestSetMatch_allocatesNothing(t *testing.T) {
	set := setOf(t,
		policy.Match{Host: "*.example.com", Path: "/a/@b/*", Headers: []policy.Condition{is(byPlan, "pro")}}, policy.Match{Domain: "edge", Descriptor: descriptor(t, "a", "b=c")},
	)
	for want, req := range map[string]policy.Request{
		"p0": {Method: "HEAD", Host: "WWW.example.com:80", Path: "/a/%40b/c/", Lookup: func(clientkey.Source) (string, error) { return "pro", nil }},
		"p1": {Domain: "edge", Descriptor: []policy.DescriptorEntry{{Key: "a", Value: "x"}, {Key: "b", Value: "c"}}},
	} {
		require.Equal(t, want, matched(set, req))
		require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = set.Match(&req) }), want)
	}
}
