//go:build doors

package test

import (
	"os"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3" // types that the bootstrap names
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3" // as above
	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
)

// The bootstrap of deploy/envoy is what Envoy's own types take: every field is known, and its rules are kept.
func TestEnvoy_theBootstrapIsValid(t *testing.T) {
	text, err := os.ReadFile("../deploy/envoy/envoy.yaml")
	require.NoError(t, err)
	asJSON, err := yaml.YAMLToJSON(text)
	require.NoError(t, err)
	bootstrap := &bootstrapv3.Bootstrap{}
	require.NoError(t, protojson.Unmarshal(asJSON, bootstrap))
	require.NoError(t, bootstrap.ValidateAll())

	filters := bootstrap.GetStaticResources().GetListeners()[0].GetFilterChains()[0].GetFilters()
	manager := &hcmv3.HttpConnectionManager{}
	require.NoError(t, filters[0].GetTypedConfig().UnmarshalTo(manager))
	require.NoError(t, manager.ValidateAll())
	limit := &ratelimitv3.RateLimit{}
	require.NoError(t, manager.GetHttpFilters()[0].GetTypedConfig().UnmarshalTo(limit))
	require.NoError(t, limit.ValidateAll())
	assert.Equal(t, "edge", limit.GetDomain())
	assert.True(t, limit.GetFailureModeDeny())
}

// Its rules, asked as that bootstrap has Envoy ask for a login: five pass in a minute, and what is denied takes nothing.
func TestEnvoy_theExamplesRulesLimitLogins(t *testing.T) {
	_, e := startEnvoyDoor(t, settings{"VELOCITY_ENVOY_CONFIG": "../deploy/envoy/ratelimit.yaml"})
	const client, login = "remote_address=192.0.2.1", "header_match=login, remote_address=192.0.2.1"
	passed := 0
	for range 20 {
		if e.mustAsk("edge", client, login) == "OK: OK OK" {
			passed++
		}
	}
	assert.GreaterOrEqual(t, passed, 5)
	assert.LessOrEqual(t, passed, 6, "one comes back every twelve seconds")
	assert.Equal(t, "OK: OK", e.mustAsk("edge", client))
	assert.Equal(t, "OK: OK OK", e.mustAsk("edge", "remote_address=192.0.2.2", "header_match=login, remote_address=192.0.2.2"))
}
