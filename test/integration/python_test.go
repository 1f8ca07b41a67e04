//go:build integration

package integration

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// The Python example works. It goes through a proxy that checks each exchange against the OpenAPI document.
func TestPython_theExampleWorksAsDescribed(t *testing.T) {
	p := harness.Start(t, harness.Settings{
		"VELOCITY_RATE": "1/h", "VELOCITY_CLIENT_KEY": "header:X-Client-ID", "VELOCITY_API_TOKEN": "token",
	})
	target, err := url.Parse(p.URL)
	require.NoError(t, err)
	var requests atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		(&httputil.ReverseProxy{
			Rewrite:   func(out *httputil.ProxyRequest) { out.SetURL(target) },
			Transport: p.Client.Transport,
		}).ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)

	cmd := exec.Command("python3", "-B", "example.py", proxy.URL, "token")
	cmd.Dir = "../../examples/python"
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s (it needs python3: apt-get install python3)", out)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(t, lines, 16, "%s", out)
	assert.Equal(t, "10 allowed", lines[9])
	assert.Regexp(t, `^11 denied, retry in 3[56]\d{5} ms$`, lines[10])
	assert.Equal(t, "refunded: 2 left", lines[12])
	assert.Equal(t, "charged: -3 left", lines[13])
	assert.Equal(t, "two checks: [True, False]", lines[14])
	assert.Equal(t, "refused: 404 Not Found: policy: there is no policy of this name", lines[15])
	assert.EqualValues(t, 16, requests.Load())
}
