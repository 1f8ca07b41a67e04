package override_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func TestEffect_isReadAsItWasWritten(t *testing.T) {
	for _, e := range []override.Effect{
		{Exempt: true},
		{Block: true},
		{Limits: []limitspec.Spec{
			{Name: "a", Rate: "5/s", Capacity: 7, Cost: 2}, {Quota: "5/day", Zone: "Europe/Berlin", Anchor: "2026-01-15"}, {Concurrent: 3, Lease: "5s"},
		}},
	} {
		got, err := override.ParseEffect(e.Text())
		require.NoError(t, err)
		assert.Equal(t, e, got)
	}
	for _, text := range []string{"", "[]", "other", `[{"names":"a"}]`, `[{"name":"a"}]x`, `{}`} {
		_, err := override.ParseEffect(text)
		assert.Error(t, err, text)
	}
}

// What a newer release wrote is kept and does nothing.
func TestRules_ofATextThatIsNotReadable(t *testing.T) {
	p := searchPolicy(t)
	table := override.NewTable()
	table.Merge(entry("a", 1, `[{"from":"the future"}]`))
	rules, isNew := table.Rules(table.Find(keyOf("a")), p)
	assert.True(t, isNew)
	assert.False(t, rules.Applies)
	require.Error(t, rules.Unfit)
	_, isNew = table.Rules(table.Find(keyOf("a")), p)
	assert.False(t, isNew)
}

func TestEffect_refusesAConcurrencyLimitUnderAPolicyForEnvoy(t *testing.T) {
	limit, err := domain.NewBucket("edge", 10, 1, time.Hour)
	require.NoError(t, err)
	p := &policy.Policy{
		Name: "edge", Match: policy.Match{Domain: "edge", Descriptor: []policy.DescriptorPattern{{Key: "generic_key"}}},
		Limits: []domain.Limit{limit}, OnStoreFailure: policy.FailOpen,
	}
	require.NoError(t, p.Compile())
	e := override.Effect{Limits: []limitspec.Spec{{Concurrent: 3}}}
	_, err = e.LimitsUnder(p)
	assert.ErrorContains(t, err, "limits[0].concurrent: 3: a policy for Envoy cannot have a concurrency limit")
}

func TestEffect_aSharedLimitMustPayTheCostliestPolicy(t *testing.T) {
	limit, err := domain.NewBucket("tenant", 100, 1, time.Hour)
	require.NoError(t, err)
	tenant, err := policy.NewShared(limit, clientkey.Key{byHeader})
	require.NoError(t, err)
	var policies []policy.Policy
	for name, cost := range map[string]domain.Tokens{"a": 1, "b": 5, "c": 2} {
		p := policy.Policy{Name: name, Cost: policy.Cost{Fixed: cost}, Match: policy.Match{Path: "/" + name}, OnStoreFailure: policy.FailOpen}
		p.Use(tenant)
		policies = append(policies, p)
	}
	_, err = policy.NewSet(policies, tenant)
	require.NoError(t, err)
	e := override.Effect{Limits: []limitspec.Spec{{Capacity: 4}}}
	_, err = e.LimitsUnder(tenant.Policy())
	assert.ErrorContains(t, err, "limits[0].capacity: 4: must be at least 5, what a request costs under a policy that uses this limit")
	e.Limits[0].Capacity = 5
	_, err = e.LimitsUnder(tenant.Policy())
	assert.NoError(t, err)
}
