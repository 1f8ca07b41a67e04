//go:build integration

package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// These tests run nginx, Caddy and HAProxy, which ask Velocity before they forward a request, with their configuration in deploy/.
// Only addresses and folders in it are replaced.

// startNginx runs the distribution's nginx and returns its address.
func startNginx(t *testing.T, velocity, api string) string {
	t.Helper()
	return startNginxWith(t, "../../deploy/nginx/nginx.conf", velocity, api)
}

// startNginxWith runs it with another configuration.
func startNginxWith(t *testing.T, path, velocity, api string) string {
	t.Helper()
	dir, addr := t.TempDir(), freeAddr(t)
	config := replaced(t, path, map[string]string{
		"server velocity:3000;": "server " + velocity + ";", "server api:8080;": "server " + api + ";",
		"listen 8080;": "listen " + addr + ";", " /tmp/": " " + dir + "/",
	})
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	runProgram(t, addr, systemProgram("nginx"), "-c", file, "-p", dir, "-g", "daemon off;")
	return addr
}

// systemProgram returns the path of a program that Debian puts where not every user's PATH leads.
func systemProgram(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		return "/usr/sbin/" + name
	}
	return path
}

// startCaddy builds Caddy from its module, runs it, and returns its address.
func startCaddy(t *testing.T, velocity, api string) string {
	t.Helper()
	return startCaddyWith(t, "../../deploy/caddy/Caddyfile", velocity, api)
}

// startCaddyWith runs it with another configuration.
func startCaddyWith(t *testing.T, path, velocity, api string) string {
	t.Helper()
	built, err := buildCaddy()
	require.NoError(t, err)
	dir, addr := t.TempDir(), freeAddr(t)
	config := replaced(t, path, map[string]string{
		"forward_auth velocity:3000": "forward_auth " + velocity, "reverse_proxy api:8080": "reverse_proxy " + api,
		"\n:8080 {": "\nhttp://:" + addr[strings.LastIndexByte(addr, ':')+1:] + " {",
	})
	file := filepath.Join(dir, "Caddyfile")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	t.Setenv("HOME", dir) // where Caddy keeps its state
	runProgram(t, addr, built, "run", "--config", file, "--adapter", "caddyfile")
	return addr
}

// buildCaddy writes the binary beside that of the service, once for all tests.
var buildCaddy = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(harness.Binary), "caddy")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Dir = "caddy"
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building Caddy: %w\n%s", err, out)
	}
	return path, nil
})

// replaced reads a configuration and replaces texts in it. It must contain each of them.
func replaced(t *testing.T, path string, with map[string]string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	config := string(text)
	for old, replacement := range with {
		require.Contains(t, config, old, path)
		config = strings.ReplaceAll(config, old, replacement)
	}
	return config
}

func freeAddr(t *testing.T) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(redistest.FreePort(t)))
}

// runProgram starts a program and returns when addr accepts connections. The test's cleanup ends the program.
func runProgram(t *testing.T, addr, binary string, args ...string) {
	t.Helper()
	var output bytes.Buffer
	cmd := exec.Command(binary, args...) // no context: the cleanup ends it
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start(), "make test-integration installs what is missing")
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-exited:
		case <-time.After(harness.Timeout):
			_ = cmd.Process.Kill()
			<-exited
		}
		if t.Failed() {
			t.Logf("%s:\n%s", binary, output.String())
		}
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, harness.Timeout, harness.Interval, "%s does not accept", binary)
}

// site is an API behind a proxy that asks Velocity before it forwards.
type site struct {
	name     string
	addr     string
	velocity *harness.Process
	reached  atomic.Int64 // requests that the API received
	last     atomic.Value // the header of the last one
}

// openSites starts each proxy with its own API and its own Velocity.
func openSites(t *testing.T, vars harness.Settings) []*site {
	t.Helper()
	var sites []*site
	for name, start := range map[string]func(*testing.T, string, string) string{"nginx": startNginx, "Caddy": startCaddy, "HAProxy": startHAProxy} {
		s := &site{name: name, velocity: startVelocityOnShards(t, vars)}
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.reached.Add(1)
			s.last.Store(r.Header.Clone())
			for _, name := range limitHeaders {
				if name != "Retry-After" { // an API may send its own
					w.Header().Set(name, "the API's")
				}
			}
			if r.URL.Path == "/forbidden" {
				w.WriteHeader(http.StatusForbidden)
			}
			_, _ = io.WriteString(w, "api")
		}))
		t.Cleanup(api.Close)
		s.addr = start(t, strings.TrimPrefix(s.velocity.URL, "http://"), strings.TrimPrefix(api.URL, "http://"))
		sites = append(sites, s)
	}
	return sites
}

// startVelocityOnShards starts a service that trusts 127.0.0.1, the proxy, alone; the clients have other addresses. It runs
// on three new Redis servers unless vars names others.
func startVelocityOnShards(t *testing.T, vars harness.Settings) *harness.Process {
	t.Helper()
	all := harness.Settings{
		"VELOCITY_TRUSTED_PROXIES": "127.0.0.1",
		// On a slow machine the failure policy must not decide. If it does, closed makes it visible.
		"VELOCITY_TAKE_TIMEOUT": "20s", "VELOCITY_ON_STORE_FAILURE": "closed",
	}
	if vars["VELOCITY_REDIS_ADDRS"] == "" {
		_, addrs := redistest.StartN(t, 3)
		all["VELOCITY_REDIS_ADDRS"] = strings.Join(addrs, ",")
	}
	for name, value := range vars {
		all[name] = value
	}
	return harness.Start(t, all)
}

// clientAt returns a client that connects from a loopback address of its own.
func clientAt(t *testing.T, ip string) *http.Client {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	transport := &http.Transport{MaxIdleConnsPerHost: 20, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, addr)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: harness.Timeout}
}

// get sends a request through the proxy. Header lines are "Name: value".
func (s *site) get(t *testing.T, c *http.Client, path string, lines ...string) harness.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.addr+path, nil)
	require.NoError(t, err)
	resp, err := harness.Send(c, req, lines...)
	require.NoError(t, err)
	return resp
}

func TestAuthProxies_eachClientGetsExactlyItsCapacity(t *testing.T) {
	const clients, concurrent, each, capacity = 20, 200, 200, 10
	sites := openSites(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": fmt.Sprint(capacity)})
	for i, s := range sites {
		t.Run(s.name, func(t *testing.T) {
			var passed, denied [clients]atomic.Int64
			work := make(chan int)
			var wg sync.WaitGroup
			var https [clients]*http.Client
			for c := range clients {
				https[c] = clientAt(t, fmt.Sprintf("127.1.%d.%d", i, c+1))
			}
			faults := make(chan string, concurrent)
			for range concurrent {
				wg.Go(func() {
					for c := range work {
						if fault := countOnce(https[c], "http://"+s.addr+"/orders", &passed[c], &denied[c]); fault != "" {
							select {
							case faults <- fault:
							default:
							}
						}
					}
				})
			}
			for n := range clients * each {
				work <- n % clients
			}
			close(work)
			wg.Wait()
			close(faults)
			for fault := range faults {
				assert.Fail(t, fault)
			}
			for c := range clients {
				assert.Equal(t, int64(capacity), passed[c].Load(), "client %d", c)
				assert.Equal(t, int64(each-capacity), denied[c].Load(), "client %d", c)
			}
			assert.Equal(t, int64(clients*capacity), s.reached.Load(), "what reached the API")
		})
	}
}

// countOnce sends a request, counts the response, and returns what is wrong with it, if anything.
func countOnce(c *http.Client, url string, passed, denied *atomic.Int64) (fault string) {
	resp, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return err.Error()
	}
	if limit := resp.Header.Values("X-RateLimit-Limit"); len(limit) != 1 || limit[0] != "10" {
		fault = fmt.Sprintf("X-RateLimit-Limit: %q", limit)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		passed.Add(1)
		if string(body) != "api" || resp.Header.Get("RateLimit") == "" {
			fault = fmt.Sprintf("allowed: %v %s", resp.Header, body)
		}
	case http.StatusTooManyRequests:
		denied.Add(1)
		seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		if err != nil || seconds < 1 || seconds > 3600 || resp.Header.Get("X-RateLimit-Remaining") != "0" ||
			resp.Header.Get("Content-Type") != "application/problem+json" || !bytes.Contains(body, []byte("Quota exceeded")) {
			fault = fmt.Sprintf("denied: %v %s", resp.Header, body)
		}
	default:
		fault = fmt.Sprintf("status %d: %s", resp.StatusCode, body)
	}
	return fault
}

func TestAuthProxies_ignoreForgedAddresses(t *testing.T) {
	for i, s := range openSites(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "3"}) {
		t.Run(s.name, func(t *testing.T) {
			client := clientAt(t, fmt.Sprintf("127.2.%d.1", i))
			for n, line := range []string{
				"X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.2", "X-Real-IP: 192.0.2.3", "X-Forwarded-For: 127.0.0.1",
				"X_Forwarded_For: 192.0.2.4",
			} {
				want := http.StatusOK
				if n >= 3 {
					want = http.StatusTooManyRequests
				}
				assert.Equal(t, want, s.get(t, client, "/orders", line).Status, line)
			}
			other := clientAt(t, fmt.Sprintf("127.2.%d.2", i))
			for _, line := range []string{"X-Original-URI: /cheap", "X-Forwarded-Uri: /cheap", "X-Original-Url: http://cheap/"} {
				got := s.get(t, other, "/orders", line)
				assert.Equal(t, http.StatusOK, got.Status, "%s: %s", line, got.Body)
			}
			assert.Equal(t, http.StatusTooManyRequests, s.get(t, other, "/orders").Status)
		})
	}
}

func TestAuthProxies_refuseWith403Or400WhereWaitingDoesNotHelp(t *testing.T) {
	for i, s := range openSites(t, nil) {
		t.Run(s.name, func(t *testing.T) {
			client := clientAt(t, fmt.Sprintf("127.3.%d.1", i))
			got := s.get(t, client, "/a%2fb")
			assert.Contains(t, []int{http.StatusForbidden, http.StatusBadRequest}, got.Status)
			assert.Empty(t, got.Header.Get("Retry-After"))
			assert.Zero(t, s.reached.Load())

			got = s.get(t, client, "/forbidden")
			assert.Equal(t, http.StatusForbidden, got.Status)
			assert.Equal(t, "api", got.Body, "the answer of the API")
		})
	}
}

// A proxy that cannot ask Velocity refuses the request. HAProxy's file lets it pass: haproxy_test.go.
func TestAuthProxies_refuseWithoutVelocity(t *testing.T) {
	for _, s := range openSites(t, nil) {
		if s.name == "HAProxy" {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			require.Equal(t, http.StatusOK, s.get(t, clientAt(t, "127.4.0.1"), "/orders").Status)
			s.velocity.Stop()
			got := s.get(t, clientAt(t, "127.4.0.1"), "/orders")
			assert.GreaterOrEqual(t, got.Status, http.StatusInternalServerError)
			assert.Equal(t, int64(1), s.reached.Load())
		})
	}
}
