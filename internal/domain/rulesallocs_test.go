//go:build !race

package domain_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRulesFor_allocatesNothing(t *testing.T) {
	p := overridesOf(t, 10_000)
	for _, client := range []string{"client-8", "group-9-someone-elses-site-7", "x-site-7", "eu-11-a-x", "nobody"} {
		require.Zero(t, testing.AllocsPerRun(100, func() { p.RulesFor(client, false) }), client)
	}
}
