//go:build !race

package app_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The race detector empties pools at random, so there is nothing to count with it.
func TestDecideMany_allocatesTheKeyAlone(t *testing.T) {
	for name, verdict := range map[string]domain.Verdict{"allowed": domain.Allowed, "denied by the shortcut": domain.Denied} {
		t.Run(name, func(t *testing.T) {
			decide := hotPath(t, &quickStore{verdict: verdict})
			decide() // the slots grow, and the shortcut learns
			require.LessOrEqual(t, testing.AllocsPerRun(1000, decide), 1.0)
		})
	}
}

func TestDecideMany_allocatesAKeyForEachGroup(t *testing.T) {
	full := threeKeys(t)
	full.Overrides = []domain.Override{{Keys: []string{"partner-*"}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 9)}}}
	full.Exempt, full.Block = []string{"health-*"}, []string{"banned-1"}
	single := domain.Policy{
		Key: full.Key, Limits: full.Limits[1:2], Overrides: full.Overrides, Exempt: full.Exempt, Block: full.Block,
	}
	list := domain.Policy{Key: domain.Key{byAddress, byTenant}, Limits: full.Limits[1:2]}
	for name, c := range map[string]struct {
		policy domain.Policy
		most   float64
	}{
		"one group with rules": {single, 1}, "three groups": {full, 3}, "a key of two sources": {list, 3}, // the key, and the client's name twice
	} {
		t.Run(name, func(t *testing.T) {
			q := &quickStore{verdict: domain.Allowed, bucket: c.policy.Limits[0].Full(fakeNow)}
			policies, err := app.NewSinglePolicy(withDefaults(c.policy))
			require.NoError(t, err)
			limiter := app.NewRateLimiter(q, q, policies, deaf{})
			reqs, answers := []domain.Request{of("", "", 1)}, make([]ports.Answer, 1)
			reqs[0].Lookup = func(domain.KeySource) (string, error) { return "client-000042", nil }
			decide := func() { limiter.DecideMany(t.Context(), reqs, answers) }
			decide()
			require.LessOrEqual(t, testing.AllocsPerRun(1000, decide), c.most)
		})
	}
}
