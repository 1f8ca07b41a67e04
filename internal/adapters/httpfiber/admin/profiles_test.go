package admin_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/secret"
)

func TestProfiles(t *testing.T) {
	start := func(token secret.Secret) string {
		a, err := admin.New(admin.Config{Addr: "127.0.0.1:0", Token: token}, nil, shards(nil),
			admin.ServiceState{}, zap.NewNop(), admin.WithProfiles())
		require.NoError(t, err)
		ln, err := a.Listen()
		require.NoError(t, err)
		serve(t, a, ln)
		return "http://" + ln.Addr().String() + "/debug/pprof"
	}
	open, guarded := start(""), start("secret")
	for path, text := range map[string]string{
		"/":                  "Types of profiles available",
		"/goroutine?debug=1": "goroutine profile: total",
		"/heap?debug=1":      "heap profile:",
		"/cmdline":           ".test",
		"/symbol?0x0":        "num_symbols",
	} {
		got := call(t, "GET", open+path, "")
		assert.Equal(t, 200, got.status, path)
		assert.Contains(t, got.body, text, path)

		refused := call(t, "GET", guarded+path, "")
		assert.Equal(t, 401, refused.status, path)
		assert.NotContains(t, refused.body, text, path)
		assert.Equal(t, 200, call(t, "GET", guarded+path, "", "Authorization", "Bearer secret").status, path)
	}
	assert.Contains(t, call(t, "POST", open+"/symbol", "0x0").body, "num_symbols")
	assert.Equal(t, 405, call(t, "POST", open+"/heap", "").status)
}
