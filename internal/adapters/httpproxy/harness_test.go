package httpproxy_test

import (
	"bufio"
	"context"
	"encoding/json"
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
)

const (
	patience = 20 * time.Second
	tick     = 5 * time.Millisecond
)

// limiterFunc is a Limiter of one function.
type limiterFunc func(policy.Request) (decision.Decision, error)

func (f limiterFunc) Decide(_ context.Context, req policy.Request) (decision.Decision, error) {
	return f(req)
}

func (f limiterFunc) DecideMany(_ context.Context, reqs []policy.Request, answers []ports.Answer) {
	for i := range reqs {
		answers[i].Decision, answers[i].Err = f(reqs[i])
	}
}

func (f limiterFunc) DecideAtomic(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	f.DecideMany(ctx, reqs, answers)
}

// permitsOf returns the limiter itself if it grants permits.
func permitsOf(limiter ports.Limiter) ports.Permits {
	if permits, ok := limiter.(ports.Permits); ok {
		return permits
	}
	return new(slots)
}

// always answers every request alike.
func always(d decision.Decision) limiterFunc {
	return func(policy.Request) (decision.Decision, error) { return d, nil }
}

// burst is 5/s with capacity 10, as the default policy has it.
func burst(t testing.TB) domain.Limit {
	t.Helper()
	l, err := domain.NewBucket("burst", 10, 5, time.Second)
	require.NoError(t, err)
	return l
}

// decided is a decision of a policy of one limit with so many tokens left.
func decided(t testing.TB, left, cost domain.Tokens, allowed bool) decision.Decision {
	t.Helper()
	l := burst(t)
	b := domain.State{Amount: domain.Credits(left) * l.TokenBucket().TokenCredits(), TokenCredits: l.TokenBucket().TokenCredits()}
	d := decision.Decision{
		Outcome: decision.OutcomeDenied, Policy: "default", Store: decision.StoreMemory, LevelKnown: true,
		Limits: []domain.LimitStatus{l.Status(b, 0, cost, 0, allowed)},
	}
	if allowed {
		d.Outcome = decision.OutcomeAllowed
	}
	return d
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

// problem decodes the body, which must be a problem that agrees with the status line.
func (a answer) problem(t testing.TB) map[string]any {
	t.Helper()
	require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), a.body)
	var p map[string]any
	require.NoError(t, json.Unmarshal([]byte(a.body), &p), a.body)
	assert.InDelta(t, a.status, p["status"], 0)
	assert.Equal(t, a.header.Get("X-Request-Id"), p["request_id"])
	for _, member := range []string{"type", "title", "detail", "instance", "request_id"} {
		assert.NotEmpty(t, p[member], member)
	}
	return p
}

// refused requires a 400. What net/http refuses by itself is no problem.
func (a answer) refused(t testing.TB, of string) {
	t.Helper()
	assert.Equal(t, 400, a.status, of)
	if !strings.HasPrefix(a.body, "400 Bad Request") {
		a.problem(t)
	}
}

// call sends one request by Go's own client. headers are pairs.
func call(t testing.TB, method, url, body string, headers ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // lest a server that does not answer end all tests
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	return read(t, res)
}

func read(t testing.TB, res *http.Response) answer {
	t.Helper()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return answer{res.StatusCode, res.Header, string(text), res.Close}
}

// exchange writes raw bytes to a connection of its own and reads so many answers to requests of the given method.
func exchange(t testing.TB, addr, raw string, answers int) []answer {
	t.Helper()
	conn := dial(t, addr)
	_, err := io.WriteString(conn, raw)
	require.NoError(t, err)
	return readAnswers(t, conn, answers)
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	return conn
}

func readAnswers(t testing.TB, conn net.Conn, n int) []answer {
	t.Helper()
	in := bufio.NewReader(conn)
	got := make([]answer, n)
	for i := range got {
		res, err := http.ReadResponse(in, nil)
		require.NoError(t, err, "answer %d", i)
		got[i] = read(t, res)
	}
	return got
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
