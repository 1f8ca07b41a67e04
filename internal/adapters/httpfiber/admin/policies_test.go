package admin_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/calendar"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/denial"
	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func limitOf(t *testing.T, name string, capacity, refill domain.Tokens, per time.Duration) domain.Limit {
	t.Helper()
	l, err := domain.NewBucket(name, capacity, refill, per)
	require.NoError(t, err)
	return l
}

func quotaOf(t *testing.T, name string, quota domain.Tokens, period, zone, anchor string) domain.Limit {
	t.Helper()
	periods, err := calendar.Parse(period, zone, anchor)
	require.NoError(t, err)
	l, err := domain.NewQuota(name, quota, periods)
	require.NoError(t, err)
	return l
}

func TestPolicies(t *testing.T) {
	byHeader, err := clientkey.Parse("header:x-client-id, ip")
	require.NoError(t, err)
	byTenant, err := clientkey.Parse("header:x-tenant")
	require.NoError(t, err)
	descriptor, err := policy.ParseDescriptorPattern("generic_key=login")
	require.NoError(t, err)
	refundOn, err := policy.ParseRefundOn("503")
	require.NoError(t, err)
	requests, err := quotaOf(t, "requests", 10_000, "24h", "", "").WithCost(1)
	require.NoError(t, err)
	parallel, err := domain.NewConcurrency("parallel", 5, time.Minute)
	require.NoError(t, err)
	list := []*policy.Policy{
		{
			Name:  "search",
			Match: policy.Match{Methods: []string{"GET"}, Host: "api.example.com", Path: "/api/search/**"},
			Key:   byHeader, Cost: policy.Cost{Fixed: 2, Header: "x-cost"}, MaxWait: 1500 * time.Millisecond,
			Limits: []domain.Limit{
				limitOf(t, "burst", 10, 5, time.Second), limitOf(t, "tenant", 200, 100, time.Second),
				quotaOf(t, "plan", 1000, "month", "Europe/Berlin", "2026-01-15"), requests, parallel,
			},
			LimitKeys: map[string]clientkey.Key{"tenant": byTenant},
			Overrides: []policy.Override{{Keys: []string{"partner-*"}}},
			Exempt:    []string{"health-*", "probe"}, Block: []string{"banned-1"},
			Mode: policy.ModeShadow, OnStoreFailure: policy.FailLocal, RefundOn: refundOn,
		},
		{
			Name:   "edge-login",
			Match:  policy.Match{Domain: "edge", Descriptor: []policy.DescriptorPattern{descriptor}},
			Limits: []domain.Limit{limitOf(t, "default", 5, 5, time.Minute)}, OnStoreFailure: policy.FailOpen,
		},
	}
	plan, err := policy.NewShared(quotaOf(t, "plan", 500, "day", "", ""), nil)
	require.NoError(t, err)
	list[1].Use(plan)
	url := startAdminWith(t, admin.Config{Token: "secret"}, admin.WithPolicies(func() []*policy.Policy { return list }))
	assert.Equal(t, 401, call(t, "GET", url+"/v1/policies", "").status)
	got := call(t, "GET", url+"/v1/policies", "", "Authorization", "Bearer secret")
	require.Equal(t, 200, got.status, got.body)
	assert.JSONEq(t, `{"policies": [
		{
			"name": "search", "match": {"methods": ["GET"], "host": "api.example.com", "path": "/api/search/**"},
			"key": ["header:x-client-id", "ip"], "cost": 2, "cost_header": "x-cost", "max_wait": "1500ms",
			"limits": [
				{"name": "burst", "kind": "bucket", "rate": "5/s", "capacity": 10},
				{"name": "tenant", "kind": "bucket", "rate": "100/s", "capacity": 200, "key": ["header:x-tenant"]},
				{"name": "plan", "kind": "quota", "quota": "1000/month", "zone": "Europe/Berlin", "anchor": "2026-01-15"},
				{"name": "requests", "kind": "quota", "quota": "10000/24h", "cost": 1},
				{"name": "parallel", "kind": "concurrency", "concurrent": 5, "lease": "1m"}
			],
			"overrides": 1, "exempt": 2, "block": 1, "mode": "shadow", "on_store_failure": "local", "refund_on": "503"
		},
		{
			"name": "edge-login", "match": {"domain": "edge", "descriptor": ["generic_key=login"]},
			"key": ["descriptor"], "cost": 1, "limits": [
				{"name": "default", "kind": "bucket", "rate": "5/m", "capacity": 5},
				{"name": "plan", "kind": "quota", "quota": "500/day", "key": ["ip"], "shared": true}
			],
			"overrides": 0, "exempt": 0, "block": 0, "mode": "enforce", "on_store_failure": "open"
		}
	]}`, got.body)
}

func TestPolicies_sayWhatRequestsCost(t *testing.T) {
	pointer := func(text string) jsonpointer.Pointer {
		p, err := jsonpointer.Parse(text)
		require.NoError(t, err)
		return p
	}
	var list []*policy.Policy
	missing := domain.Tokens(0)
	for _, cost := range []policy.Cost{
		{
			Estimate: []policy.CostSource{{Header: "x-est"}, {Pointer: pointer("/max_tokens")}, {Number: 3}},
			Actual:   policy.Actual{Usage: true}, Missing: &missing, Failed: 2, IncludeUsage: true,
		},
		{Actual: policy.Actual{Pointers: []jsonpointer.Pointer{pointer("/a"), pointer("/b")}}},
	} {
		p := &policy.Policy{Name: "llm", Cost: cost, Limits: []domain.Limit{limitOf(t, "default", 5, 5, time.Minute)}, OnStoreFailure: policy.FailOpen}
		require.NoError(t, p.Compile())
		list = append(list, p)
	}
	url := startAdminWith(t, admin.Config{}, admin.WithPolicies(func() []*policy.Policy { return list }))
	const rest = `"name": "llm", "key": ["ip"], "limits": [{"name": "default", "kind": "bucket", "rate": "5/m", "capacity": 5}],
		"overrides": 0, "exempt": 0, "block": 0, "mode": "enforce", "on_store_failure": "open"`
	assert.JSONEq(t, `{"policies": [
		{`+rest+`, "cost": 3, "cost_estimate": ["header:x-est", "json:/max_tokens"], "cost_actual": ["usage"], "cost_missing": 0, "cost_failed": 2,
			"cost_include_usage": true},
		{`+rest+`, "cost": 1, "cost_actual": ["json:/a", "json:/b"]}
	]}`, call(t, "GET", url+"/v1/policies", "").body)
}

func TestPolicies_nameWhatHasOverrides(t *testing.T) {
	url := startAdminWith(t, admin.Config{}, admin.WithPolicies(func() []*policy.Policy { return nil }), admin.WithOverrides(fakeOverrides{
		owners: []string{"gone", "shared/tenant"},
	}))
	assert.JSONEq(t, `{"policies": [], "overridden": ["gone", "shared/tenant"]}`, call(t, "GET", url+"/v1/policies", "").body)
}

func TestPolicies_sayWhichKeysAreSecretAndMayNotBeMissing(t *testing.T) {
	hasher, err := clientkey.NewHasher([]byte("0123456789abcdef"))
	require.NoError(t, err)
	p := policy.Policy{
		Name: "default", Key: clientkey.Key{{Kind: clientkey.SourceHeader, Name: "x-api-key", Hasher: hasher}}, MissingKey: policy.MissingKeyRefuse,
		Limits: []domain.Limit{limitOf(t, "default", 5, 5, time.Minute)}, OnStoreFailure: policy.FailOpen,
	}
	require.NoError(t, p.Compile())
	url := startAdminWith(t, admin.Config{}, admin.WithPolicies(func() []*policy.Policy { return []*policy.Policy{&p} }))
	assert.JSONEq(t, `{"policies": [{
		"name": "default", "key": ["header:x-api-key"], "secret_keys": ["header:x-api-key"], "missing_key": "refuse", "cost": 1,
		"limits": [{"name": "default", "kind": "bucket", "rate": "5/m", "capacity": 5}],
		"overrides": 0, "exempt": 0, "block": 0, "mode": "enforce", "on_store_failure": "open"
	}]}`, call(t, "GET", url+"/v1/policies", "").body)
}

func TestPolicies_sayHowDenialsAreAnswered(t *testing.T) {
	page, err := denial.New(0, "text/html", "<p>{retry_after}</p>")
	require.NoError(t, err)
	p := policy.Policy{
		Name: "default", SkipPreflight: true, Denied: page, Limits: []domain.Limit{limitOf(t, "default", 5, 5, time.Minute)}, OnStoreFailure: policy.FailOpen,
	}
	require.NoError(t, p.Compile())
	url := startAdminWith(t, admin.Config{}, admin.WithPolicies(func() []*policy.Policy { return []*policy.Policy{&p} }))
	assert.JSONEq(t, `{"policies": [{
		"name": "default", "key": ["ip"], "cost": 1, "limits": [{"name": "default", "kind": "bucket", "rate": "5/m", "capacity": 5}],
		"overrides": 0, "exempt": 0, "block": 0, "mode": "enforce", "on_store_failure": "open",
		"skip_preflight": true, "denied": {"content_type": "text/html; charset=utf-8"}
	}]}`, call(t, "GET", url+"/v1/policies", "").body)
}
