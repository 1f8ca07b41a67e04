package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// proxyMegabytes is smaller by default than the gigabyte that the documents promise. The bound on memory is the same.
var proxyMegabytes = flag.Int("proxy.megabytes", 192, "size of the bodies that pass the reverse proxy")

// startAPI starts an upstream server and returns its URL.
func startAPI(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}

func TestProxy_protectsEveryPathOfAServer(t *testing.T) {
	url := startAPI(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s of %s", r.Method, r.RequestURI, r.Header.Get("X-Forwarded-For"))
	})
	p := harness.Start(t, harness.Settings{"VELOCITY_UPSTREAM_URL": url, "VELOCITY_CAPACITY": "3", "VELOCITY_RATE": "1/h"})
	for i, path := range []string{"/orders//7?x=1", "/v1/other", "/openapi"} {
		got := p.MustDo(http.MethodGet, p.URL+path, "")
		assert.Equal(t, http.StatusOK, got.Status, got.Body)
		assert.Equal(t, "GET "+strings.ReplaceAll(path, "//", "/")+" of 127.0.0.1", got.Body)
		assert.Equal(t, strconv.Itoa(2-i), got.Header.Get("X-RateLimit-Remaining"))
	}
	got := p.MustDo(http.MethodGet, p.URL+"/orders", "")
	assert.Equal(t, http.StatusTooManyRequests, got.Status)
	assert.NotEmpty(t, got.Header.Get("Retry-After"))
	p.Stop()
	assert.Equal(t, url, p.LogLines("Started")[0]["upstream"])
}

// Bodies that pass the proxy are far larger than what the process may grow by.
func TestProxy_bodiesPassInBoundedMemory(t *testing.T) {
	const most = 64 << 20
	size := int64(*proxyMegabytes) << 20
	require.Greater(t, size, int64(2*most), "else it proves nothing")
	url := startAPI(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Got", fmt.Sprint(n, err))
		switch r.Method {
		case http.MethodGet:
			w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
			_, _ = io.CopyN(w, zeros{}, size)
		case http.MethodPut:
			_, _ = io.CopyN(w, zeros{}, size) // chunked
		}
	})
	p := harness.Start(t, harness.Settings{"VELOCITY_UPSTREAM_URL": url})
	before := peakMemory(t, p)
	for _, c := range []struct {
		method string
		length int64 // of the request's body; -1: unknown
		sent   int64
		got    int64
	}{
		{http.MethodGet, 0, 0, size}, {http.MethodPost, size, size, 0}, {http.MethodPut, -1, size, size},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, p.URL+"/", io.LimitReader(zeros{}, c.sent))
		require.NoError(t, err)
		req.ContentLength = c.length
		if c.sent == 0 {
			req.Body = nil
		}
		resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, c.got, n)
		assert.Equal(t, fmt.Sprint(c.sent, " <nil>"), resp.Header.Get("X-Got"))
	}
	grown := peakMemory(t, p) - before
	assert.Less(t, grown, int64(most))
	t.Logf("%d MiB each way: the peak of memory grew by %d KiB", *proxyMegabytes, grown>>10)
	p.Stop()
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// peakMemory returns the largest resident memory that the process has had, in bytes.
func peakMemory(t *testing.T, p *harness.Process) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, "VmHWM:"); found {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			require.NoError(t, err)
			return kib << 10
		}
	}
	require.Fail(t, "no VmHWM")
	return 0
}

// However an exchange ends, its file descriptors are closed.
func TestProxy_leavesNoConnectionBehind(t *testing.T) {
	url := startAPI(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/breaks":
			w.Header().Set("Content-Length", "100000")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/waits":
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/socket":
			if c, err := websocket.Accept(w, r, nil); err == nil {
				_, _, _ = c.Read(r.Context())
			}
		default:
			_, _ = io.Copy(w, r.Body)
		}
	})
	p := harness.Start(t, harness.Settings{
		"VELOCITY_UPSTREAM_URL": url, "VELOCITY_CAPACITY": "100000", "VELOCITY_UPSTREAM_IDLE_TIMEOUT": "100ms",
		"VELOCITY_HTTP_IDLE_TIMEOUT": "100ms",
	})
	p.MustDo(http.MethodPost, p.URL+"/", "warm")
	p.Client.CloseIdleConnections()
	descriptors := func() int {
		open, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.Cmd.Process.Pid), "fd"))
		require.NoError(t, err)
		return len(open)
	}
	var before int
	require.Eventually(t, func() bool { // until idle connections have been closed
		n := before
		before = descriptors()
		return n == before
	}, harness.Timeout, 60*harness.Interval)

	addr := strings.TrimPrefix(p.URL, "http://")
	for range 20 {
		p.MustDo(http.MethodPost, p.URL+"/", strings.Repeat("x", 100_000))
		_, err := p.Do(http.MethodGet, p.URL+"/breaks", "")
		assert.Error(t, err, "a body that broke off is not taken for a whole one")
		for _, raw := range []string{
			"GET /waits HTTP/1.1\r\nHost: x\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf",
		} {
			conn, err := net.Dial("tcp", addr)
			require.NoError(t, err)
			_, err = io.WriteString(conn, raw)
			require.NoError(t, err)
			if strings.HasPrefix(raw, "GET") {
				_, err = http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
			}
			require.NoError(t, conn.Close())
		}
		ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
		c, _, err := websocket.Dial(ctx, "ws://"+addr+"/socket", nil)
		require.NoError(t, err)
		require.NoError(t, c.CloseNow())
		cancel()
	}
	p.Client.CloseIdleConnections()
	assert.Eventually(t, func() bool { return descriptors() <= before }, harness.Timeout, 10*harness.Interval, "%d before", before)
	p.Stop()
}

func TestForwardAuth_decidesForAProxy(t *testing.T) {
	p := harness.Start(t, harness.Settings{"VELOCITY_TRUSTED_PROXIES": "loopback", "VELOCITY_CAPACITY": "1", "VELOCITY_RATE": "1/h"})
	ask := func(client, query string) harness.Response {
		return p.MustDo(http.MethodGet, p.URL+"/v1/forward-auth"+query, "", "X-Forwarded-Method: POST", "X-Forwarded-Uri: /orders",
			"X-Forwarded-For: "+client)
	}
	got := ask("192.0.2.1", "")
	assert.Equal(t, http.StatusOK, got.Status, got.Body)
	assert.Empty(t, got.Body)
	assert.Equal(t, "0", got.Header.Get("X-RateLimit-Remaining"))
	assert.Equal(t, http.StatusTooManyRequests, ask("192.0.2.1", "").Status)
	assert.Equal(t, http.StatusForbidden, ask("192.0.2.1", "?denied=403").Status)
	assert.Equal(t, http.StatusOK, ask("192.0.2.2", "").Status)
	assert.Equal(t, http.StatusBadRequest, ask("192.0.2.3", "?denied=200").Status)
	p.Stop()
}

// Requests, streams and WebSockets pass with TLS at the client's side and at the upstream's.
func TestProxy_speaksTLSBothWays(t *testing.T) {
	ended := make(chan struct{})
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/socket":
			if c, err := websocket.Accept(w, r, nil); err == nil {
				kind, data, _ := c.Read(r.Context())
				_ = c.Write(r.Context(), kind, data)
			}
		case "/waits":
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			close(ended)
		default:
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Proto", r.Header.Get("X-Forwarded-Proto"))
			_, _ = w.Write(body)
		}
	}))
	t.Cleanup(api.Close)
	authority := filepath.Join(t.TempDir(), "api.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	require.NoError(t, os.WriteFile(authority, text, 0o600))
	ca, cert, key := redistest.Certificates(t)
	own, err := os.ReadFile(ca)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(own))
	p := harness.Start(t, harness.Settings{
		"VELOCITY_UPSTREAM_URL": api.URL, "SSL_CERT_FILE": authority, "VELOCITY_TLS_CERT_FILE": cert, "VELOCITY_TLS_KEY_FILE": key,
	})
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: harness.Timeout}
	url := "https" + strings.TrimPrefix(p.URL, "http")
	for range 3 {
		sent := strings.Repeat("x", 100_000)
		resp, err := client.Post(url+"/", "text/plain", strings.NewReader(sent))
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, "https", resp.Header.Get("X-Proto"))
		if sent != string(got) { // too long to print
			assert.Fail(t, "another body came back", "%d bytes", len(got))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
	defer cancel()
	socket, _, err := websocket.Dial(ctx, url+"/socket", &websocket.DialOptions{HTTPClient: client})
	require.NoError(t, err)
	require.NoError(t, socket.Write(ctx, websocket.MessageText, []byte("hello")))
	_, echoed, err := socket.Read(ctx)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(echoed))
	require.NoError(t, socket.CloseNow())

	resp, err := client.Get(url + "/waits")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close()) // this closes the connection
	select {
	case <-ended:
	case <-ctx.Done():
		assert.Fail(t, "the upstream is still asked for a client that has gone")
	}
	p.Stop()
}

func TestProxy_anUntrustedCertificateIsNoUpstream(t *testing.T) {
	api := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("asked") }))
	t.Cleanup(api.Close)
	p := harness.Start(t, harness.Settings{"VELOCITY_UPSTREAM_URL": api.URL})
	assert.Equal(t, http.StatusBadGateway, p.MustDo(http.MethodGet, p.URL+"/", "").Status)
	p.Stop()
	assert.Contains(t, p.LogLines("The upstream failed")[0]["error"], "certificate")
}

// Costs, client lists and paths of policies apply alike to proxied requests and to those of the decision API.
func TestProxy_appliesPoliciesAsTheDecisionAPIDoes(t *testing.T) {
	const policies = `
policies:
  - name: work
    match: { path: "/jobs/**" }
    key: query:api_key
    block: ["mallory"]
    limits: [ { name: hourly, rate: 2/h, capacity: 2 } ]
    refund_on: [503]
  - name: rest
    match: { path: "/**" }
    exempt: ["127.0.0.1"]
    limits: [ { rate: 1/h, capacity: 1 } ]
`
	const token = "0123456789abcdef"
	file := harness.WriteFile(t, "policies.yaml", policies)
	url := startAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("busy") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	p := harness.Start(t, harness.Settings{"VELOCITY_UPSTREAM_URL": url, "VELOCITY_POLICY_FILE": file, "VELOCITY_API_TOKEN": token})
	status := func(path string) int { return p.MustDo(http.MethodGet, p.URL+path, "").Status }
	for range 5 {
		assert.Equal(t, http.StatusServiceUnavailable, status("/jobs/1?api_key=alice&busy"), "the tokens come back")
	}
	assert.Equal(t, http.StatusOK, status("/jobs/1?api_key=alice"))
	assert.Equal(t, http.StatusOK, status("/jobs//2?api_key=%61lice"))
	assert.Equal(t, http.StatusTooManyRequests, status("/jobs/./3?api_key=alice"))
	assert.Equal(t, http.StatusBadRequest, status("/jobs/1?api_key=bob&api_key=alice"), "who pays?")
	assert.Equal(t, http.StatusForbidden, status("/jobs/1?api_key=mallory"))
	for range 3 {
		assert.Equal(t, http.StatusOK, status("/elsewhere"), "exempt")
	}

	check := func(key string) map[string]any {
		got := p.MustDo(http.MethodPost, p.URL+"/v1/check", `{"policy":"work","key":"`+key+`"}`, "Authorization: Bearer "+token)
		require.Equal(t, http.StatusOK, got.Status, got.Body)
		return got.JSON(t)
	}
	assert.Equal(t, false, check("alice")["allowed"], "the same bucket")
	assert.Equal(t, true, check("carol")["allowed"])
	assert.Equal(t, "policy", check("mallory")["store"], "blocked is no matter of waiting")
	p.Stop()
}
