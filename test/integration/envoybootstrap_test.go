//go:build integration

package integration

import (
	"os"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3" // registers types that the bootstrap names
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3" // as above
	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
)

// The bootstrap of deploy/envoy decodes into Envoy's own types and passes their validation.
func TestEnvoy_theBootstrapIsValid(t *testing.T) {
	text, err := os.ReadFile("../../deploy/envoy/envoy.yaml")
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
