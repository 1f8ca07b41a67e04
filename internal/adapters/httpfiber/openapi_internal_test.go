package httpfiber

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/web/webtest"
)

// The OpenAPI document has all routes of the data plane, and no others. Forward-auth is no route: it answers any method.
func TestOpenAPI_hasTheRoutesOfTheDataPlane(t *testing.T) {
	s, err := New(Config{
		Addr: "127.0.0.1:0", ReadTimeout: time.Second, WriteTimeout: time.Second, IdleTimeout: time.Second, MaxConns: 1,
	}, nil, nil, zap.NewNop())
	require.NoError(t, err)
	described := slices.DeleteFunc(webtest.Operations(t, "openapi.yaml", false), func(operation string) bool {
		return strings.HasSuffix(operation, " /v1/forward-auth")
	})
	assert.Equal(t, described, webtest.Routes(s.http.App))
}
