package httpproxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpproxy"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/dataplane"
	"github.com/velocity-limiter/velocity/internal/web/webtest"
)

const (
	patience = 20 * time.Second
	tick     = 5 * time.Millisecond
)

// deadURL is of a port that no server gets which asks for a free one.
const deadURL = "http://127.0.0.1:1"

// limiterFunc is a Limiter of one function.
type limiterFunc = webtest.LimiterFunc

// always answers every request alike.
func always(d decision.Decision) limiterFunc { return webtest.Always(d) }

// decided is a decision of a policy of one limit with so many tokens left.
func decided(t testing.TB, left, cost domain.Tokens, allowed bool) decision.Decision {
	t.Helper()
	return webtest.Decided(t, left, cost, allowed)
}

// permitsOf returns the limiter itself if it grants permits.
func permitsOf(limiter ports.Limiter) ports.Permits {
	if permits, ok := limiter.(ports.Permits); ok {
		return permits
	}
	return new(slots)
}

// config is the data plane's configuration, and the upstream's.
type config struct {
	dataplane.Config
	Upstream httpproxy.Config
}

// proxyConfig is a data plane in front of the server at url.
func proxyConfig(url string) config {
	return config{dataplane.Config{
		Addr: "127.0.0.1:0", ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		IdleTimeout: 5 * time.Second, MaxConns: 100, DrainPeriod: 10 * time.Millisecond,
	}, httpproxy.Config{URL: url, Timeout: 10 * time.Second, MaxConns: 100, IdleTimeout: 10 * time.Second}}
}

// plane is a server that its test stops, or the end of the test.
type plane struct {
	*httpproxy.Server
	addr   string
	served chan error
}

// startPlane serves in front of an upstream.
func startPlane(t testing.TB, cfg config, limiter ports.Limiter, api httpproxy.API) *plane {
	t.Helper()
	s, err := httpproxy.New(cfg.Config, cfg.Upstream, limiter, permitsOf(limiter), api, zap.NewNop())
	require.NoError(t, err)
	return servePlane(t, s)
}

func servePlane(t testing.TB, s *httpproxy.Server) *plane {
	t.Helper()
	ln, err := s.Listen()
	require.NoError(t, err)
	p := &plane{s, ln.Addr().String(), make(chan error, 1)}
	go func() { p.served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		assert.NoError(t, p.Shutdown(ctx))
	})
	return p
}

// planeFor serves in front of an upstream of this handler, by a limiter that lets everything pass.
func planeFor(t testing.TB, handler http.HandlerFunc) *plane {
	t.Helper()
	return startPlane(t, proxyConfig(startUpstream(t, handler)), always(decided(t, 9, 1, true)), httpproxy.API{})
}

// start serves until the test ends, and returns the address.
func start(t testing.TB, cfg config, limiter ports.Limiter) string {
	t.Helper()
	return startPlane(t, cfg, limiter, httpproxy.API{}).addr
}

// startServer is start with a log.
func startServer(t testing.TB, cfg config, limiter ports.Limiter, log *zap.Logger) (*httpproxy.Server, string) {
	t.Helper()
	s, err := httpproxy.New(cfg.Config, cfg.Upstream, limiter, permitsOf(limiter), httpproxy.API{}, log)
	require.NoError(t, err)
	return s, servePlane(t, s).addr
}

// startProxy serves in front of an upstream of this handler.
func startProxy(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	return start(t, proxyConfig(startUpstream(t, handler)), always(decided(t, 9, 1, true)))
}

func startUpstream(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}

// rawUpstream answers each connection by a function that is given the whole of it.
func rawUpstream(t testing.TB, serve func(net.Conn, *bufio.Reader)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				serve(c, bufio.NewReader(c))
			}()
		}
	}()
	return "http://" + ln.Addr().String()
}

// says reads one request and answers with raw bytes, after which it ends the connection.
func says(raw string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, in *bufio.Reader) {
		if _, err := http.ReadRequest(in); err == nil {
			_, _ = io.WriteString(c, raw)
		}
	}
}

// answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	body   string
	close  bool // the server said Connection: close
}

func toAnswer(r webtest.Response) answer { return answer{r.Status, r.Header, r.Body, r.Close} }

func toAnswers(list []webtest.Response) []answer {
	answers := make([]answer, len(list))
	for i, r := range list {
		answers[i] = toAnswer(r)
	}
	return answers
}

// problem is webtest.Response.Problem.
func (a answer) problem(t testing.TB) map[string]any {
	t.Helper()
	return webtest.Response{Status: a.status, Header: a.header, Body: a.body}.Problem(t)
}

// refused requires a 400. What net/http refuses by itself is no problem.
func (a answer) refused(t testing.TB, of string) {
	t.Helper()
	assert.Equal(t, 400, a.status, of)
	if !strings.HasPrefix(a.body, "400 Bad Request") {
		a.problem(t)
	}
}

// call is webtest.Call, and the functions below are those of webtest, too.
func call(t testing.TB, method, url, body string, headers ...string) answer {
	t.Helper()
	return toAnswer(webtest.Call(t, method, url, body, headers...))
}

func read(t testing.TB, res *http.Response) answer {
	t.Helper()
	return toAnswer(webtest.Read(t, res))
}

func exchange(t testing.TB, addr, raw string, answers int) []answer {
	t.Helper()
	return toAnswers(webtest.Exchange(t, addr, raw, answers))
}

func readAnswers(t testing.TB, conn net.Conn, n int) []answer {
	t.Helper()
	return toAnswers(webtest.ReadAll(t, conn, n))
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	return webtest.Dial(t, addr)
}

// recorder records what is decided and what the upstream gets.
type recorder struct {
	mu       sync.Mutex
	decided  []policy.Request
	reached  []string // request URIs
	upstream http.Header
}

func (w *recorder) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.decided, w.reached, w.upstream = nil, nil, nil
}

// openRecorded serves in front of an upstream, and records. trusted are the trusted proxies.
func openRecorded(t *testing.T, w *recorder, trusted ...string) string {
	t.Helper()
	return openWith(t, w, func(cfg *config) { cfg.TrustedProxies = trusted })
}

func openWith(t *testing.T, w *recorder, change func(*config)) string {
	t.Helper()
	cfg := proxyConfig(startUpstream(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.reached, w.upstream = append(w.reached, r.RequestURI), r.Header
	}))
	change(&cfg)
	allow := decided(t, 9, 1, true)
	return start(t, cfg, limiterFunc(func(req policy.Request) (decision.Decision, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		req.Method, req.Host, req.Path = strings.Clone(req.Method), strings.Clone(req.Host), strings.Clone(req.Path)
		w.decided = append(w.decided, req)
		return allow, nil
	}))
}

// plainly spells a request as a client does.
func plainly(target, lines string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: x\r\n" + lines + "\r\n"
}
