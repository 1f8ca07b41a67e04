//go:build integration

package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// startHAProxy runs the distribution's HAProxy with the files of deploy/haproxy, and returns its address.
func startHAProxy(t *testing.T, velocity, api string) string {
	t.Helper()
	return startHAProxyWith(t, "../../deploy/haproxy/haproxy.cfg", velocity, api)
}

// startHAProxyWith runs it with another configuration.
func startHAProxyWith(t *testing.T, path, velocity, api string) string {
	t.Helper()
	dir, addr := t.TempDir(), freeAddr(t)
	_, port, _ := strings.Cut(addr, ":")
	ask := "abns@velocity_ask_" + port // one for each process of the machine
	script := filepath.Join(dir, "velocity.lua")
	require.NoError(t, os.WriteFile(script, []byte(replaced(t, "../../deploy/haproxy/velocity.lua", map[string]string{
		"abns@velocity_ask": ask,
	})), 0o600))
	config := filepath.Join(dir, "haproxy.cfg")
	require.NoError(t, os.WriteFile(config, []byte(replaced(t, path, map[string]string{
		"/usr/local/etc/haproxy/velocity.lua": script, "bind :8080": "bind " + addr, "abns@velocity_ask": ask,
		"server velocity velocity:3000": "server velocity " + velocity, "server api api:8080": "server api " + api,
	})), 0o600))
	runProgram(t, addr, systemProgram("haproxy"), "-db", "-f", config)
	return addr
}

// While Velocity fails its health checks, requests pass unlimited. They are limited again when it is back.
func TestHAProxy_letsPassWithoutVelocity(t *testing.T) {
	velocity := startVelocityOnShards(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "1"})
	s := openSite(t, velocity, startHAProxyWith, "../../deploy/haproxy/haproxy.cfg")
	client := clientAt(t, "127.8.1.1")
	require.Equal(t, http.StatusOK, s.get(t, client, "/orders").Status)
	require.Equal(t, http.StatusTooManyRequests, s.get(t, client, "/orders").Status, "limits are in force")
	velocity.Stop()
	require.Eventually(t, func() bool {
		got := s.get(t, client, "/orders", "X-Request-Id: its-own")
		if got.Status != http.StatusOK {
			assert.Equal(t, http.StatusServiceUnavailable, got.Status, "until the health check has failed")
			assert.NotEmpty(t, got.Header.Get("Retry-After"))
			return false
		}
		assert.Equal(t, "its-own", s.last.Load().(http.Header).Get("X-Request-Id"))
		return true
	}, harness.Timeout, harness.Interval)

	again := strings.TrimPrefix(velocity.URL, "http://")
	back := startVelocityOnShards(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "1", "VELOCITY_HTTP_ADDR": again})
	require.Equal(t, velocity.URL, back.URL)
	require.Eventually(t, func() bool {
		return s.get(t, client, "/orders").Status == http.StatusTooManyRequests
	}, harness.Timeout, harness.Interval)
}

// While Velocity answers, nothing that a client sends lets its request pass unasked.
func TestHAProxy_refusesWhatItCannotAskAbout(t *testing.T) {
	velocity := startVelocityOnShards(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "5"})
	s := openSite(t, velocity, startHAProxyWith, "../../deploy/haproxy/haproxy.cfg")
	client := clientAt(t, "127.8.2.1")
	for size := 1000; size <= 17_000; size += 500 { // around the size of HAProxy's buffers
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.addr+"/orders", nil)
		require.NoError(t, err)
		req.Close = true // HAProxy closes the connection of a request that it refuses
		got, err := harness.Send(client, req, "X-Large: "+strings.Repeat("x", size))
		if err == nil && got.Status == http.StatusOK { // an error is a refusal, too: it closed while the client was still sending
			assert.Equal(t, "5", got.Header.Get("X-RateLimit-Limit"), "%d bytes: Velocity was asked", size)
		}
	}
	assert.Equal(t, http.StatusTooManyRequests, s.get(t, client, "/orders").Status)
}
