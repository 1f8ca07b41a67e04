package policy_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

var (
	byIP     = clientkey.Source{Kind: clientkey.SourceIP}
	byTenant = clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-tenant"}
)

// isPolicyError reports whether err is a FieldError about this field of a policy.
func isPolicyError(err error, field string) bool {
	var e *domain.FieldError
	return errors.As(err, &e) && errors.Is(e, domain.ErrInvalidPolicy) && e.Field == field
}

// limits makes n limits of different names.
func limits(t *testing.T, n int) []domain.Limit {
	t.Helper()
	all := make([]domain.Limit, n)
	for i := range all {
		l, err := domain.NewBucket("l"+string(rune('a'+i/26))+string(rune('a'+i%26)), 1, 1, time.Second)
		require.NoError(t, err)
		all[i] = l
	}
	return all
}

func TestPolicy_validate(t *testing.T) {
	two := limits(t, 2)
	cases := []struct {
		name   string
		policy policy.Policy
		fields []string
	}{
		{"valid", policy.Policy{Name: "search", Limits: two, OnStoreFailure: policy.FailOpen}, nil},
		{"the most limits", policy.Policy{Name: "a", Limits: limits(t, policy.MaxLimits), OnStoreFailure: policy.FailLocal}, nil},
		{"a header", policy.Policy{Name: "a", Key: clientkey.Key{byTenant}, Limits: two, OnStoreFailure: policy.FailClosed}, nil},
		{"everything wrong", policy.Policy{Name: "Search", Key: clientkey.Key{{Kind: 9}}}, []string{"name", "key", "limits", "on_store_failure"}},
		{"a header in upper case", policy.Policy{
			Name: "a", Key: clientkey.Key{{Kind: clientkey.SourceHeader, Name: "X-Tenant"}}, Limits: two, OnStoreFailure: policy.FailOpen,
		}, []string{"key"}},
		{"a header that forges a separator", policy.Policy{
			Name: "a", Key: clientkey.Key{{Kind: clientkey.SourceHeader, Name: "x=y"}}, Limits: two, OnStoreFailure: policy.FailOpen,
		}, []string{"key"}},
		{"too many limits", policy.Policy{Name: "a", Limits: limits(t, policy.MaxLimits+1), OnStoreFailure: "open"}, []string{"limits"}},
		{"zero limits and limits of one name", policy.Policy{
			Name: "a", Limits: []domain.Limit{two[0], {}, {}, two[0], two[1]}, OnStoreFailure: "open",
		}, []string{"limits", "limits", "limits"}},
		{"an unknown failure mode", policy.Policy{Name: "a", Limits: two, OnStoreFailure: "Open"}, []string{"on_store_failure"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := c.policy.Validate()
			var fields []string
			if joined, ok := err.(interface{ Unwrap() []error }); ok {
				for _, one := range joined.Unwrap() {
					var e *domain.FieldError
					require.ErrorAs(t, one, &e)
					require.ErrorIs(t, e, domain.ErrInvalidPolicy)
					fields = append(fields, e.Field)
				}
			}
			assert.Equal(t, c.fields, fields, "%v", err)
		})
	}
}
