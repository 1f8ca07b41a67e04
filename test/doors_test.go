//go:build doors

package test

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
)

// The programs that users have in front of Velocity, with the configuration of deploy/: nothing but addresses and
// folders is replaced in it.

// startNginx runs the distribution's nginx. It returns its address.
func startNginx(t *testing.T, velocity, api string) string {
	t.Helper()
	binary, err := exec.LookPath("nginx")
	if err != nil {
		binary = "/usr/sbin/nginx" // not on every user's PATH
	}
	dir, addr := t.TempDir(), freeAddr(t)
	config := replaced(t, "../deploy/nginx/nginx.conf", map[string]string{
		"server velocity:3000;": "server " + velocity + ";", "server api:8080;": "server " + api + ";",
		"listen 8080;": "listen " + addr + ";", " /tmp/": " " + dir + "/",
	})
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	runProgram(t, addr, binary, "-c", file, "-p", dir, "-g", "daemon off;")
	return addr
}

// startCaddy builds Caddy from its module, and runs it.
func startCaddy(t *testing.T, velocity, api string) string {
	t.Helper()
	built, err := buildCaddy()
	require.NoError(t, err)
	dir, addr := t.TempDir(), freeAddr(t)
	config := replaced(t, "../deploy/caddy/Caddyfile", map[string]string{
		"forward_auth velocity:3000": "forward_auth " + velocity, "reverse_proxy api:8080": "reverse_proxy " + api,
		"\n:8080 {": "\nhttp://:" + addr[strings.LastIndexByte(addr, ':')+1:] + " {",
	})
	file := filepath.Join(dir, "Caddyfile")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	t.Setenv("HOME", dir) // where it keeps its state
	runProgram(t, addr, built, "run", "--config", file, "--adapter", "caddyfile")
	return addr
}

// buildCaddy puts it beside our own binary, once for all tests.
var buildCaddy = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(binary), "caddy")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Dir = "caddy"
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building Caddy: %w\n%s", err, out)
	}
	return path, nil
})

// replaced reads a configuration. What is to be replaced must be there.
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

// runProgram returns when addr accepts, and ends the program with the test.
func runProgram(t *testing.T, addr, binary string, args ...string) {
	t.Helper()
	var output bytes.Buffer
	cmd := exec.Command(binary, args...) // no context: the cleanup ends it
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start(), "make test-doors installs what is missing")
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-exited:
		case <-time.After(patience):
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
	}, patience, tick, "%s does not accept", binary)
}

// site is an API behind a proxy that asks Velocity.
type site struct {
	name     string
	addr     string
	velocity *process
	reached  atomic.Int64 // requests that the API got
	last     atomic.Value // the header of the last one
}

// openSites starts each proxy with an API and a Velocity of its own.
func openSites(t *testing.T, vars settings) []*site {
	t.Helper()
	var sites []*site
	for name, start := range map[string]func(*testing.T, string, string) string{"nginx": startNginx, "Caddy": startCaddy} {
		s := &site{name: name, velocity: startVelocityOnShards(t, vars)}
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.reached.Add(1)
			s.last.Store(r.Header.Clone())
			for _, name := range toldAs {
				if name != "Retry-After" { // an API has its own
					w.Header().Set(name, "the API's")
				}
			}
			if r.URL.Path == "/forbidden" {
				w.WriteHeader(http.StatusForbidden)
			}
			_, _ = io.WriteString(w, "api")
		}))
		t.Cleanup(api.Close)
		s.addr = start(t, strings.TrimPrefix(s.velocity.url, "http://"), strings.TrimPrefix(api.URL, "http://"))
		sites = append(sites, s)
	}
	return sites
}

// startVelocityOnShards trusts the proxy's address alone; the clients have others. The shards are live ones, unless vars names some.
func startVelocityOnShards(t *testing.T, vars settings) *process {
	t.Helper()
	all := settings{
		"VELOCITY_TRUSTED_PROXIES": "127.0.0.1",
		// A slow machine must not turn this into a test of the failure policy, which closed would make visible.
		"VELOCITY_TAKE_TIMEOUT": "20s", "VELOCITY_ON_STORE_FAILURE": "closed",
	}
	if vars["VELOCITY_REDIS_ADDRS"] == "" {
		_, addrs := redistest.StartN(t, 3)
		all["VELOCITY_REDIS_ADDRS"] = strings.Join(addrs, ",")
	}
	for name, value := range vars {
		all[name] = value
	}
	return start(t, all)
}

// clientAt is a client of this machine with an address of its own.
func clientAt(t *testing.T, ip string) *http.Client {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	transport := &http.Transport{MaxIdleConnsPerHost: 20, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, addr)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// ask sends a request through the proxy. Header lines are "Name: value".
func (s *site) ask(t *testing.T, c *http.Client, path string, lines ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.addr+path, nil)
	require.NoError(t, err)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := c.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer{resp.StatusCode, resp.Header, string(text)}
}

func TestDoors_eachClientGetsExactlyItsCapacity(t *testing.T) {
	const clients, concurrent, each, capacity = 20, 200, 200, 10
	sites := openSites(t, settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": fmt.Sprint(capacity)})
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
						if fault := askOnce(https[c], "http://"+s.addr+"/orders", &passed[c], &denied[c]); fault != "" {
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

// askOnce counts an answer, and says what is wrong with it.
func askOnce(c *http.Client, url string, passed, denied *atomic.Int64) (fault string) {
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

func TestDoors_whatAClientSaysOfItselfDoesNotCount(t *testing.T) {
	for i, s := range openSites(t, settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": "3"}) {
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
				assert.Equal(t, want, s.ask(t, client, "/orders", line).status, line)
			}
			other := clientAt(t, fmt.Sprintf("127.2.%d.2", i))
			for _, line := range []string{"X-Original-URI: /cheap", "X-Forwarded-Uri: /cheap", "X-Original-Url: http://cheap/"} {
				got := s.ask(t, other, "/orders", line)
				assert.Equal(t, http.StatusOK, got.status, "%s: %s", line, got.body)
			}
			assert.Equal(t, http.StatusTooManyRequests, s.ask(t, other, "/orders").status)
		})
	}
}

func TestDoors_whatIsNoMatterOfWaitingIsA403OrA400(t *testing.T) {
	for i, s := range openSites(t, nil) {
		t.Run(s.name, func(t *testing.T) {
			client := clientAt(t, fmt.Sprintf("127.3.%d.1", i))
			got := s.ask(t, client, "/a%2fb")
			assert.Contains(t, []int{http.StatusForbidden, http.StatusBadRequest}, got.status)
			assert.Empty(t, got.header.Get("Retry-After"))
			assert.Zero(t, s.reached.Load())

			got = s.ask(t, client, "/forbidden")
			assert.Equal(t, http.StatusForbidden, got.status)
			assert.Equal(t, "api", got.body, "the API's own")
		})
	}
}

// TestDoors_withoutVelocityNothingPasses: a proxy that cannot ask refuses.
func TestDoors_withoutVelocityNothingPasses(t *testing.T) {
	for _, s := range openSites(t, nil) {
		t.Run(s.name, func(t *testing.T) {
			require.Equal(t, http.StatusOK, s.ask(t, clientAt(t, "127.4.0.1"), "/orders").status)
			s.velocity.stop()
			got := s.ask(t, clientAt(t, "127.4.0.1"), "/orders")
			assert.GreaterOrEqual(t, got.status, http.StatusInternalServerError)
			assert.Equal(t, int64(1), s.reached.Load())
		})
	}
}
