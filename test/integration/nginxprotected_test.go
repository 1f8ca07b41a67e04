//go:build integration

package integration

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// nginxConf forwards everything. $LISTEN, $VELOCITY and $LOCATION are replaced.
const nginxConf = `
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path client-body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    upstream limiter { server $VELOCITY; }
    server {
        listen $LISTEN;
        location / { $LOCATION }
    }
}
`

// TestNginx_doesNotOpenTheProtectedAPI: nginx on the machine of Velocity forwards every path, and no token is set.
func TestNginx_doesNotOpenTheProtectedAPI(t *testing.T) {
	velocity := harness.Start(t, harness.Settings{"VELOCITY_TRUSTED_PROXIES": "loopback"})
	addr := strings.TrimPrefix(velocity.URL, "http://")
	direct := velocity.MustDo(http.MethodPost, velocity.URL+"/v1/check", `{"key":"alice"}`)
	require.Equal(t, http.StatusOK, direct.Status, direct.Body)

	const http11 = "proxy_http_version 1.1; proxy_set_header Connection ''; "
	for name, c := range map[string]struct {
		location string
		status   int
	}{
		"proxy_pass alone":  {"proxy_pass http://$VELOCITY;", http.StatusForbidden},
		"a named upstream":  {http11 + "proxy_pass http://limiter;", http.StatusForbidden},
		"the client's Host": {http11 + "proxy_pass http://$VELOCITY; proxy_set_header Host $http_host;", http.StatusForbidden},
		"X-Real-IP":         {http11 + "proxy_pass http://$VELOCITY; proxy_set_header X-Real-IP $remote_addr;", http.StatusForbidden},
		"X-Forwarded-For":   {http11 + "proxy_pass http://$VELOCITY; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;", http.StatusForbidden},
		"X-Forwarded-Proto": {http11 + "proxy_pass http://$VELOCITY; proxy_set_header X-Forwarded-Proto $scheme;", http.StatusForbidden},
		"Forwarded":         {http11 + "proxy_pass http://$VELOCITY; proxy_set_header Forwarded for=$remote_addr;", http.StatusForbidden},
		"Via":               {http11 + "proxy_pass http://$VELOCITY; proxy_set_header Via '1.1 nginx';", http.StatusForbidden},
		// What documents warn of: nothing shows that this request was forwarded.
		"HTTP/1.1 and no header": {http11 + "proxy_pass http://$VELOCITY;", http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			nginx := startNginxText(t, strings.NewReplacer("$LOCATION", c.location).Replace(nginxConf), addr)
			for _, path := range []string{"/v1/check", "/v1/charge", "/v1/refund"} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+nginx+path, strings.NewReader(`{"key":"alice"}`))
				require.NoError(t, err)
				req.Host = "api.example.com"
				got, err := harness.Send(clientAt(t, "127.9.0.1"), req, "Content-Type: application/json")
				require.NoError(t, err)
				assert.Equal(t, c.status, got.Status, "%s: %s", path, got.Body)
				if c.status == http.StatusForbidden {
					assert.Contains(t, got.Body, "VELOCITY_API_TOKEN")
				}
			}
		})
	}
}

// startNginxText runs nginx with this configuration in front of velocity, and returns its address.
func startNginxText(t *testing.T, config, velocity string) string {
	t.Helper()
	binary, err := exec.LookPath("nginx")
	if err != nil {
		binary = "/usr/sbin/nginx" // not on every user's PATH
	}
	dir, addr := t.TempDir(), freeAddr(t)
	file := filepath.Join(dir, "nginx.conf")
	config = strings.NewReplacer("$VELOCITY", velocity, "$LISTEN", addr).Replace(config)
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	runProgram(t, addr, binary, "-c", file, "-p", dir, "-g", "daemon off;")
	return addr
}
