// Package proxy holds the end-to-end tests of the reverse proxy: the real binary between real clients and real servers, by
// every protocol that it speaks to either.
package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

func TestMain(m *testing.M) {
	harness.Main(m, "../..")
}

// protocol is a version of HTTP, with or without TLS.
type protocol struct {
	name  string
	tls   bool
	http2 bool
}

// protocols are those between a client and the proxy, and between the proxy and its upstream.
var protocols = []protocol{
	{"HTTP 1.1", false, false},
	{"HTTP 1.1 over TLS", true, false},
	{"HTTP 2 over TLS", true, true},
	{"HTTP 2 without TLS", false, true},
}

// set returns the versions that a server or a client of this protocol speaks.
func (p protocol) set() *http.Protocols {
	var s http.Protocols
	s.SetHTTP1(!p.http2)
	s.SetHTTP2(p.http2 && p.tls)
	s.SetUnencryptedHTTP2(p.http2 && !p.tls)
	return &s
}

// eachClient runs a test for each protocol between the client and the proxy.
func eachClient(t *testing.T, f func(t *testing.T, client protocol)) {
	for _, client := range protocols {
		t.Run("client "+client.name, func(t *testing.T) {
			t.Parallel()
			f(t, client)
		})
	}
}

// pairs are protocols at the two sides of the proxy: each client with an upstream of either version.
func pairs() [][2]protocol {
	all := [][2]protocol{{protocols[0], protocols[1]}}
	for i, client := range protocols {
		all = append(all, [2]protocol{client, protocols[0]}, [2]protocol{client, protocols[2+i%2]})
	}
	return all
}

// eachPair runs a test for each of the pairs.
func eachPair(t *testing.T, f func(t *testing.T, client, upstream protocol)) {
	for _, pair := range pairs() {
		t.Run("client "+pair[0].name+", upstream "+pair[1].name, func(t *testing.T) {
			t.Parallel()
			f(t, pair[0], pair[1])
		})
	}
}

// upstreamSettings starts an upstream server, and returns the settings for a proxy before it.
func (p protocol) upstreamSettings(t *testing.T, handler http.HandlerFunc) harness.Settings {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.Protocols = p.set()
	s.EnableHTTP2 = p.http2 && p.tls
	if p.tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	if !p.tls {
		scheme := "http"
		if p.http2 {
			scheme = "h2c"
		}
		return harness.Settings{"VELOCITY_UPSTREAM_URL": scheme + "://" + s.Listener.Addr().String()}
	}
	authority := filepath.Join(t.TempDir(), "upstream.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	require.NoError(t, os.WriteFile(authority, text, 0o600))
	return harness.Settings{"VELOCITY_UPSTREAM_URL": s.URL, "SSL_CERT_FILE": authority}
}

// server is the proxy, and a client of it.
type server struct {
	*harness.Process
	addr   string
	tls    *tls.Config // of clients; nil without TLS
	client *http.Client
}

// start runs the proxy. Later settings replace those before them. By default no limit is reached.
func start(t *testing.T, client protocol, settings ...harness.Settings) *server {
	t.Helper()
	vars := harness.Settings{"VELOCITY_CAPACITY": "1000000"}
	for _, some := range settings {
		maps.Copy(vars, some)
	}
	if vars["VELOCITY_POLICY_FILE"] != "" {
		delete(vars, "VELOCITY_CAPACITY")
	}
	s := new(server)
	if client.tls {
		ca, cert, key := redistest.Certificates(t)
		vars["VELOCITY_TLS_CERT_FILE"], vars["VELOCITY_TLS_KEY_FILE"] = cert, key
		text, err := os.ReadFile(ca)
		require.NoError(t, err)
		pool := x509.NewCertPool()
		require.True(t, pool.AppendCertsFromPEM(text))
		s.tls = &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
	}
	s.Process = harness.Start(t, vars)
	s.addr = strings.TrimPrefix(s.URL, "http://")
	if client.tls {
		s.URL = "https://" + s.addr
	}
	transport := s.newTransport(client)
	t.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{Transport: transport, Timeout: silence + harness.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	return s
}

// newTransport returns a client's side that speaks this protocol alone, and asks for nothing by itself.
func (s *server) newTransport(client protocol) *http.Transport {
	return &http.Transport{
		TLSClientConfig: s.tls.Clone(), Protocols: client.set(), DisableCompression: true, MaxIdleConnsPerHost: 100,
		ExpectContinueTimeout: harness.Timeout,
	}
}

// do sends a request. headers are pairs.
func (s *server) do(t *testing.T, method, path string, body io.Reader, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, body)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := s.client.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// text reads a body.
func text(t *testing.T, res *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return string(body)
}

// dial opens a connection to the proxy, which ends with the test.
func (s *server) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(2*harness.Timeout)))
	return conn
}

// memory returns a figure of the process from /proc, in bytes: VmRSS, VmHWM.
func (s *server) memory(t *testing.T, name string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Cmd.Process.Pid))
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(status), name+":")
	require.True(t, found, name)
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	require.NoError(t, err)
	return kib << 10
}

// goroutines returns how many the process has.
func (s *server) goroutines(t *testing.T) int {
	t.Helper()
	got := s.MustDo(http.MethodGet, s.Admin+"/debug/pprof/goroutine?debug=1", "")
	require.Equal(t, http.StatusOK, got.Status, got.Body)
	var n int
	_, err := fmt.Sscanf(got.Body, "goroutine profile: total %d", &n)
	require.NoError(t, err, got.Body)
	return n
}

// flush sends what the handler has written.
func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

// rawUpstream serves each connection by a function, and returns the settings for a proxy before it.
func rawUpstream(t *testing.T, serve func(net.Conn, *bufio.Reader)) harness.Settings {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				serve(conn, bufio.NewReader(conn))
			}()
		}
	}()
	return harness.Settings{"VELOCITY_UPSTREAM_URL": "http://" + ln.Addr().String()}
}
