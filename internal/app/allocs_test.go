//go:build !race

package app_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The race detector empties pools at random, so there is nothing to count with it.
func TestDecideMany_allocatesTheKeyAlone(t *testing.T) {
	for name, verdict := range map[string]domain.Verdict{"allowed": domain.Allowed, "denied by the denial cache": domain.Denied} {
		t.Run(name, func(t *testing.T) {
			decide := hotPath(t, &quickStore{verdict: verdict})
			decide() // the slots grow, and the denial cache learns
			require.LessOrEqual(t, testing.AllocsPerRun(1000, decide), 1.0)
		})
	}
}

func TestDecideMany_conditionsAllocateNothing(t *testing.T) {
	for _, plans := range []int{0, 1000} {
		decide := inMemory(t, plans)
		decide()
		require.LessOrEqual(t, testing.AllocsPerRun(1000, decide), 1.0, "the key alone, with %d plans", plans)
	}
}

func TestDecideMany_allocatesAKeyForEachGroup(t *testing.T) {
	full := threeKeys(t)
	full.Overrides = []policy.Override{{Keys: []string{"partner-*"}, Limits: []domain.Limit{mustLimit(t, "burst", "1/h", 9)}}}
	full.Exempt, full.Block = []string{"health-*"}, []string{"banned-1"}
	single := policy.Policy{
		Key: full.Key, Limits: full.Limits[1:2], Overrides: full.Overrides, Exempt: full.Exempt, Block: full.Block,
	}
	list := policy.Policy{Key: clientkey.Key{byAddress, byTenant}, Limits: full.Limits[1:2]}
	client, _ := bySecret(t)
	secretly := policy.Policy{Key: clientkey.Key{client}, Limits: full.Limits[1:2], Overrides: full.Overrides, Exempt: full.Exempt}
	sharing := single
	sharing.Limits = slices.Clone(single.Limits)
	tenant, err := policy.NewShared(mustLimit(t, "tenant", "1/h", 4), clientkey.Key{byTenant},
		policy.Override{Keys: []string{"big-*"}, Limits: []domain.Limit{mustLimit(t, "tenant", "1/h", 8)}})
	require.NoError(t, err)
	sharing.Use(tenant)
	global := policy.Policy{Key: full.Key, Limits: full.Limits[:2], LimitKeys: map[string]clientkey.Key{"all": full.LimitKeys["all"]}}
	for name, c := range map[string]struct {
		policy policy.Policy
		most   float64
	}{
		"a group, and one for all clients": {global, 1},
		"a group and a shared limit":       {sharing, 2}, "one group with rules": {single, 1}, "three groups, one for all clients": {full, 2}, "a key of two sources": {list, 3}, // the key, and the client's name twice
		"a secret key": {secretly, 2}, // the HMAC, and the key that ends with it
	} {
		t.Run(name, func(t *testing.T) {
			q := &quickStore{verdict: domain.Allowed, bucket: c.policy.Limits[0].Full(fakeNow)}
			policies, err := app.NewSinglePolicy(withDefaults(c.policy))
			require.NoError(t, err)
			limiter := app.NewRateLimiter(q, q, policies, nopObserver{})
			reqs, answers := []policy.Request{of("", "", 1)}, make([]ports.Answer, 1)
			reqs[0].Lookup = func(clientkey.Source) (string, error) { return "client-000042", nil }
			decide := func() { limiter.DecideMany(t.Context(), reqs, answers) }
			decide()
			require.LessOrEqual(t, testing.AllocsPerRun(1000, decide), c.most)
		})
	}
}
