package domain_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// limits makes n limits of different names.
func limits(t *testing.T, n int) []domain.Limit {
	t.Helper()
	all := make([]domain.Limit, n)
	for i := range all {
		l, err := domain.NewLimit("l"+string(rune('a'+i/26))+string(rune('a'+i%26)), 1, 1, time.Second)
		require.NoError(t, err)
		all[i] = l
	}
	return all
}

func TestPolicy_validate(t *testing.T) {
	two := limits(t, 2)
	cases := []struct {
		name   string
		policy domain.Policy
		fields []string
	}{
		{"valid", domain.Policy{Name: "search", Limits: two, OnStoreFailure: domain.FailOpen}, nil},
		{"the most limits", domain.Policy{Name: "a", Limits: limits(t, domain.MaxLimits), OnStoreFailure: domain.FailLocal}, nil},
		{"a header", domain.Policy{Name: "a", Key: domain.Key{byTenant}, Limits: two, OnStoreFailure: domain.FailClosed}, nil},
		{"everything wrong", domain.Policy{Name: "Search", Key: domain.Key{{Kind: 9}}}, []string{"name", "key", "limits", "on_store_failure"}},
		{"a header in upper case", domain.Policy{
			Name: "a", Key: domain.Key{{Kind: domain.SourceHeader, Name: "X-Tenant"}}, Limits: two, OnStoreFailure: domain.FailOpen,
		}, []string{"key"}},
		{"a header that forges a separator", domain.Policy{
			Name: "a", Key: domain.Key{{Kind: domain.SourceHeader, Name: "x=y"}}, Limits: two, OnStoreFailure: domain.FailOpen,
		}, []string{"key"}},
		{"too many limits", domain.Policy{Name: "a", Limits: limits(t, domain.MaxLimits+1), OnStoreFailure: "open"}, []string{"limits"}},
		{"zero limits and limits of one name", domain.Policy{
			Name: "a", Limits: []domain.Limit{two[0], {}, {}, two[0], two[1]}, OnStoreFailure: "open",
		}, []string{"limits", "limits", "limits"}},
		{"an unknown failure mode", domain.Policy{Name: "a", Limits: two, OnStoreFailure: "Open"}, []string{"on_store_failure"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := c.policy.Validate()
			var fields []string
			for _, e := range fieldErrors(err) {
				require.ErrorIs(t, e, domain.ErrInvalidPolicy)
				fields = append(fields, e.Field)
			}
			assert.Equal(t, c.fields, fields, "%v", err)
		})
	}
}

func TestFieldError_showsTheFieldTheValueAndTheRule(t *testing.T) {
	shown := &domain.FieldError{Kind: domain.ErrInvalidPolicy, Field: "name", Value: `"A"`, Reason: "must be lower case"}
	require.EqualError(t, shown, `name: "A": must be lower case`)
	secret := &domain.FieldError{Kind: domain.ErrInvalidPolicy, Field: "token", Reason: "is too short"}
	require.EqualError(t, secret, "token: is too short")
	assert.ErrorIs(t, secret, domain.ErrInvalidPolicy)
}
