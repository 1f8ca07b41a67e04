//go:build integration

package integration

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// startProxy starts a proxy with a configuration, and returns its address.
type startProxy func(t *testing.T, config, velocity, api string) string

// The id in Velocity's log is the one that the client and the API see.
func TestAuthProxies_passTheRequestID(t *testing.T) {
	for config, start := range map[string]startProxy{
		"../../deploy/nginx/nginx.conf": startNginxWith, "../../deploy/caddy/Caddyfile": startCaddyWith,
		"../../deploy/haproxy/haproxy.cfg": startHAProxyWith,
	} {
		t.Run(filepath.Base(config), func(t *testing.T) {
			velocity := startVelocityOnShards(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "2"})
			s := openSite(t, velocity, start, config)
			client := clientAt(t, "127.7.0.1")
			for _, line := range []string{"X-Request-Id: its-own", "X-Other: none"} {
				got := s.get(t, client, "/orders", line)
				require.Equal(t, http.StatusOK, got.Status)
				ids := got.Header.Values("X-Request-Id")
				require.Len(t, ids, 1)
				assert.NotEmpty(t, ids[0])
				assert.Equal(t, ids, s.last.Load().(http.Header).Values("X-Request-Id"), "at the API")
				if _, id, own := strings.Cut(line, "X-Request-Id: "); own {
					assert.Equal(t, id, ids[0])
				}
			}
			got := s.get(t, client, "/orders", "X-Request-Id: denied-1")
			assert.Equal(t, http.StatusTooManyRequests, got.Status)
			assert.Equal(t, "denied-1", got.Header.Get("X-Request-Id"))
		})
	}
}

// TestAuthProxies_letPassWithoutVelocity runs them with the lines of docs/recipes.md.
func TestAuthProxies_letPassWithoutVelocity(t *testing.T) {
	text, err := os.ReadFile("../../docs/recipes.md")
	require.NoError(t, err)
	lines := regexp.MustCompile("(?s)```(?:nginx|caddyfile)\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	require.Len(t, lines, 4)
	nginx := replaced(t, "../../deploy/nginx/nginx.conf", map[string]string{
		"location = /velocity {": lines[1][1] + "location = /velocity {\n" + lines[0][1],
	})
	caddy := replaced(t, "../../deploy/caddy/Caddyfile", map[string]string{"\t\tforward_auth velocity:3000 {\n": lines[2][1]}) + lines[3][1]
	_, port, err := net.SplitHostPort(freeAddr(t))
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(caddy, ":8081"))
	caddy = strings.ReplaceAll(caddy, ":8081", ":"+port)

	for name, c := range map[string]struct {
		config string
		start  startProxy
	}{"nginx": {nginx, startNginxWith}, "Caddy": {caddy, startCaddyWith}} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config")
			require.NoError(t, os.WriteFile(file, []byte(c.config), 0o600))
			velocity := startVelocityOnShards(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "1"})
			s := openSite(t, velocity, c.start, file)
			client := clientAt(t, "127.8.0.1")
			require.Equal(t, http.StatusOK, s.get(t, client, "/orders").Status)
			require.Equal(t, http.StatusTooManyRequests, s.get(t, client, "/orders").Status, "limits are in force")
			velocity.Stop()
			for range 2 {
				got := s.get(t, client, "/orders", "X-Request-Id: its-own")
				assert.Equal(t, http.StatusOK, got.Status)
				assert.Equal(t, "its-own", s.last.Load().(http.Header).Get("X-Request-Id"))
			}
		})
	}
}

// openSite is a site behind a proxy with this configuration.
func openSite(t *testing.T, velocity *harness.Process, start startProxy, config string) *site {
	t.Helper()
	s := &site{velocity: velocity}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.last.Store(r.Header.Clone())
		w.Header().Set("X-Request-Id", "the API's")
	}))
	t.Cleanup(api.Close)
	s.addr = start(t, config, strings.TrimPrefix(velocity.URL, "http://"), strings.TrimPrefix(api.URL, "http://"))
	return s
}
