package test

import (
	"math"
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/velocity-limiter/velocity/test/harness"
)

const envoyPolicies = `
policies:
  - name: edge-login
    match: { domain: edge, descriptor: ["generic_key=login", "remote_address"] }
    limits: [ { rate: 5/h, capacity: 5 } ]
  - name: everyone
    match: { domain: edge, descriptor: ["generic_key=all"] }
    key: global
    limits: [ { rate: 7/h, capacity: 7 } ]
  - name: trial
    match: { domain: edge, descriptor: ["trial"] }
    mode: shadow
    limits: [ { rate: 1/h, capacity: 1 } ]
  - name: lists
    match: { domain: edge, descriptor: ["user"] }
    exempt: ["health-*"]
    block: ["banned"]
    limits: [ { rate: 1/h, capacity: 1 } ]
  - name: default
    limits: [ { rate: 1/h, capacity: 1 } ]
`

func TestEnvoy_policiesOfTheFile(t *testing.T) {
	_, e := startEnvoyService(t, harness.Settings{"VELOCITY_POLICY_FILE": harness.WriteFile(t, "policies.yaml", envoyPolicies)})
	login := func(ip string) string { return "generic_key=login, remote_address=" + ip }
	for _, step := range []struct {
		times       int
		descriptors []string
		want        string
	}{
		{5, []string{login("192.0.2.1")}, "OK: OK"},
		{2, []string{login("192.0.2.1")}, "OVER_LIMIT: OVER_LIMIT"},
		{2, []string{login("192.0.2.1"), "generic_key=all"}, "OVER_LIMIT: OVER_LIMIT OK"},
		{5, []string{login("192.0.2.2"), "generic_key=all"}, "OK: OK OK"},
		{2, []string{login("192.0.2.3"), "generic_key=all"}, "OK: OK OK"}, // the denied requests took nothing from the bucket of all
		{1, []string{login("192.0.2.3"), "generic_key=all"}, "OVER_LIMIT: OK OVER_LIMIT"},
		{3, []string{login("192.0.2.3")}, "OK: OK"}, // nor that one from the bucket of the address
		{1, []string{login("192.0.2.3")}, "OVER_LIMIT: OVER_LIMIT"},
		{3, []string{"trial=x"}, "OK: OK"},
		{3, []string{"user=health-1"}, "OK: OK"},
		{1, []string{"user=banned"}, "OVER_LIMIT: OVER_LIMIT"},
		{1, []string{"generic_key=login"}, "OK: OK"}, // no policy matches this alone
		{3, []string{"generic_key=login, remote_address=192.0.2.1, more=x"}, "OK: OK"},
	} {
		for range step.times {
			assert.Equal(t, step.want, e.mustLimit("edge", step.descriptors...), "%v", step.descriptors)
		}
	}
	for range 3 {
		assert.Equal(t, "OK: OK", e.mustLimit("elsewhere", login("192.0.2.1")), "another domain; the default policy is for HTTP")
	}

	back := &ratelimitv3.RateLimitDescriptor{
		Entries: []*ratelimitv3.RateLimitDescriptor_Entry{
			{Key: "generic_key", Value: "login"}, {Key: "remote_address", Value: "192.0.2.1"},
		},
		HitsAddend: wrapperspb.UInt64(3), IsNegativeHits: true,
	}
	r, err := e.rls.ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Domain: "edge", Descriptors: []*ratelimitv3.RateLimitDescriptor{back}})
	require.NoError(t, err)
	assert.EqualValues(t, 3, r.GetStatuses()[0].GetLimitRemaining())
	assert.Equal(t, "edge-login", r.GetStatuses()[0].GetCurrentLimit().GetName())
	assert.Equal(t, rlsv3.RateLimitResponse_RateLimit_HOUR, r.GetStatuses()[0].GetCurrentLimit().GetUnit())
	back.HitsAddend, back.IsNegativeHits = wrapperspb.UInt64(math.MaxInt32), false
	r, err = e.rls.ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Domain: "edge", Descriptors: []*ratelimitv3.RateLimitDescriptor{back}})
	require.NoError(t, err)
	assert.Equal(t, rlsv3.RateLimitResponse_OVER_LIMIT, r.GetOverallCode())
}

// While Redis fails the service answers by its failure mode. It returns no error, upon which Envoy would allow.
func TestEnvoy_aFailingStoreIsNotAnError(t *testing.T) {
	for mode, want := range map[string][2]string{
		"open":   {"OK: OK", "OK: OK"},
		"closed": {"OVER_LIMIT: OVER_LIMIT", "OVER_LIMIT: OVER_LIMIT"},
		"local":  {"OK: OK", "OVER_LIMIT: OVER_LIMIT"},
	} {
		_, e := startEnvoyService(t, harness.Settings{
			"REDIS_ADDR": "127.0.0.1:1", "VELOCITY_ON_STORE_FAILURE": mode, "VELOCITY_TAKE_TIMEOUT": "1s",
			"VELOCITY_ENVOY_CONFIG": harness.WriteFile(t, "rules.yaml", "{domain: edge, descriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 1}}]}"),
		})
		for i := range want {
			assert.Equal(t, want[i], e.mustLimit("edge", "user=alice"), "%s, call %d", mode, i+1)
		}
	}
}
