package admin_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// startAdminWith serves an admin plane with these parts and nothing else.
func startAdminWith(t *testing.T, cfg admin.Config, options ...admin.Option) string {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	a, err := admin.New(cfg, nil, shards{}, admin.ServiceState{}, zap.NewNop(), options...)
	require.NoError(t, err)
	ln, err := a.Listen()
	require.NoError(t, err)
	serve(t, a, ln)
	return "http://" + ln.Addr().String()
}

type topOf func(n int) ports.TopReport

func (f topOf) Top(n int) ports.TopReport { return f(n) }

func TestTop(t *testing.T) {
	var asked int
	url := startAdminWith(t, admin.Config{Token: "secret"}, admin.WithTop(topOf(func(n int) ports.TopReport {
		asked = n
		return ports.TopReport{Window: 55 * time.Second, Policies: []ports.TopPolicy{{
			Policy: "search", Requests: 9, Denials: 4,
			ByDenials:  []ports.TopClient{{Key: "192.0.2.7", Source: "ip", Count: 4, Error: 1}},
			ByRequests: []ports.TopClient{{Key: "a\"\xff\n</script>", Count: 9}},
		}}}
	})))
	assert.Equal(t, 401, call(t, "GET", url+"/v1/top", "").status)

	got := call(t, "GET", url+"/v1/top?n=3", "", "Authorization", "Bearer secret")
	require.Equal(t, 200, got.status, got.body)
	assert.Equal(t, 3, asked)
	assert.JSONEq(t, `{"window_ms": 55000, "policies": [{"policy": "search", "requests": 9, "denials": 4,
		"by_denials": [{"key": "192.0.2.7", "source": "ip", "count": 4, "error": 1}],
		"by_requests": [{"key": "a\"\ufffd\n</script>", "count": 9, "error": 0}]}]}`, got.body)

	call(t, "GET", url+"/v1/top", "", "Authorization", "Bearer secret")
	assert.Equal(t, 10, asked)
	got = call(t, "GET", url+"/v1/top?policy=other", "", "Authorization", "Bearer secret")
	assert.JSONEq(t, `{"window_ms": 55000, "policies": []}`, got.body)
	got = call(t, "GET", url+"/v1/top?policy=search", "", "Authorization", "Bearer secret")
	assert.Contains(t, got.body, `"requests":9`)
	for _, n := range []string{"0", "101", "many", "-1"} {
		got := call(t, "GET", url+"/v1/top?n="+n, "", "Authorization", "Bearer secret")
		assert.Equal(t, 422, got.status, n)
		assert.Contains(t, got.body, "n: must be from 1 to 100", n)
	}
}

func TestTop_nothingYet(t *testing.T) {
	url := startAdminWith(t, admin.Config{}, admin.WithTop(topOf(func(int) ports.TopReport {
		return ports.TopReport{}
	})))
	assert.JSONEq(t, `{"window_ms": 0, "policies": []}`, call(t, "GET", url+"/v1/top", "").body)
}
