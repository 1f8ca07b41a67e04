package admin

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/webtest"
)

// The OpenAPI document has all routes of the admin plane but profiles and the files of the live page, and no others.
func TestOpenAPI_hasTheRoutesOfTheAdminPlane(t *testing.T) {
	a, err := New(Config{Addr: "127.0.0.1:0"}, nil, nil, ServiceState{}, zap.NewNop(),
		WithOverrides(struct{ ports.Overrides }{}), WithPolicies(nil), WithReload(nil, nil), WithMetrics(http.NotFoundHandler()), WithTop(nil),
		WithProfiles(), WithLivePage(LiveSources{}))
	require.NoError(t, err)
	routes := slices.DeleteFunc(webtest.Routes(a.http.App), func(route string) bool {
		return strings.Contains(route, " /page/") || strings.Contains(route, " /debug/pprof")
	})
	assert.Equal(t, webtest.Operations(t, "../openapi.yaml", true), routes)
}
