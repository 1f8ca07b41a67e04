//go:build !race

package domain_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestRulesFor_allocatesNothing(t *testing.T) {
	p := overridesOf(t, 10_000)
	for _, client := range []string{"client-8", "group-9-someone-elses-site-7", "x-site-7", "eu-11-a-x", "nobody"} {
		require.Zero(t, testing.AllocsPerRun(100, func() { p.RulesFor(client, false) }), client)
	}
}

func TestPolicySetMatch_allocatesNothing(t *testing.T) {
	set := setOf(t,
		domain.Match{Host: "*.example.com", Path: "/a/@b/*"}, domain.Match{Domain: "edge", Descriptor: descriptor(t, "a", "b=c")},
	)
	for want, req := range map[string]domain.Request{
		"p0": {Method: "HEAD", Host: "WWW.example.com:80", Path: "/a/%40b/c/"},
		"p1": {Domain: "edge", Descriptor: []domain.DescriptorEntry{{Key: "a", Value: "x"}, {Key: "b", Value: "c"}}},
	} {
		require.Equal(t, want, matched(set, req))
		require.Zero(t, testing.AllocsPerRun(100, func() { set.Match(&req) }), want)
	}
}
