package httpfiber_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/domain"
)

func limitOf(t *testing.T, name string, capacity, refill domain.Tokens, per time.Duration) domain.Limit {
	t.Helper()
	l, err := domain.NewLimit(name, capacity, refill, per)
	require.NoError(t, err)
	return l
}

func TestPolicies(t *testing.T) {
	byHeader, err := domain.ParseKey("header:x-client-id, ip")
	require.NoError(t, err)
	byTenant, err := domain.ParseKey("header:x-tenant")
	require.NoError(t, err)
	descriptor, err := domain.ParseDescriptorPattern("generic_key=login")
	require.NoError(t, err)
	refundOn, err := domain.ParseRefundOn("503")
	require.NoError(t, err)
	list := []*domain.Policy{
		{
			Name:  "search",
			Match: domain.Match{Methods: []string{"GET"}, Host: "api.example.com", Path: "/api/search/**"},
			Key:   byHeader, Cost: domain.Cost{Fixed: 2, Header: "x-cost"},
			Limits: []domain.Limit{
				limitOf(t, "burst", 10, 5, time.Second), limitOf(t, "tenant", 200, 100, time.Second),
			},
			LimitKeys: map[string]domain.Key{"tenant": byTenant},
			Overrides: []domain.Override{{Keys: []string{"partner-*"}}},
			Exempt:    []string{"health-*", "probe"}, Block: []string{"banned-1"},
			Mode: domain.ModeShadow, OnStoreFailure: domain.FailLocal, RefundOn: refundOn,
		},
		{
			Name:   "edge-login",
			Match:  domain.Match{Domain: "edge", Descriptor: []domain.DescriptorPattern{descriptor}},
			Limits: []domain.Limit{limitOf(t, "default", 5, 5, time.Minute)}, OnStoreFailure: domain.FailOpen,
		},
	}
	url := startAdminWith(t, httpfiber.AdminConfig{Token: "secret"}, httpfiber.WithPolicies(func() []*domain.Policy { return list }))
	assert.Equal(t, 401, call(t, "GET", url+"/v1/policies", "").status)
	got := call(t, "GET", url+"/v1/policies", "", "Authorization", "Bearer secret")
	require.Equal(t, 200, got.status, got.body)
	assert.JSONEq(t, `{"policies": [
		{
			"name": "search", "match": {"methods": ["GET"], "host": "api.example.com", "path": "/api/search/**"},
			"key": ["header:x-client-id", "ip"], "cost": 2, "cost_header": "x-cost",
			"limits": [
				{"name": "burst", "rate": "5/s", "capacity": 10},
				{"name": "tenant", "rate": "100/s", "capacity": 200, "key": ["header:x-tenant"]}
			],
			"overrides": 1, "exempt": 2, "block": 1, "mode": "shadow", "on_store_failure": "local", "refund_on": "503"
		},
		{
			"name": "edge-login", "match": {"domain": "edge", "descriptor": ["generic_key=login"]},
			"key": ["descriptor"], "cost": 1, "limits": [{"name": "default", "rate": "5/m", "capacity": 5}],
			"overrides": 0, "exempt": 0, "block": 0, "mode": "enforce", "on_store_failure": "open"
		}
	]}`, got.body)
}
