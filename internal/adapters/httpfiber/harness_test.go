package httpfiber_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
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

// always answers every request alike.
func always(d decision.Decision) limiterFunc {
	return func(policy.Request) (decision.Decision, error) { return d, nil }
}

// permitsOf is the limiter itself if it has permits, else nil.
func permitsOf(limiter ports.Limiter) ports.Permits {
	permits, _ := limiter.(ports.Permits)
	return permits
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

// fellBack is what a failure policy decided.
func fellBack(t testing.TB, outcome decision.Outcome) decision.Decision {
	t.Helper()
	l := burst(t)
	return decision.Decision{
		Outcome: outcome, Policy: "default", Store: decision.StoreFallback,
		Limits: []domain.LimitStatus{l.UnknownStatus(outcome == decision.OutcomeAllowed)},
	}
}

func testConfig() httpfiber.Config {
	return httpfiber.Config{
		Addr: "127.0.0.1:0", ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		IdleTimeout: 5 * time.Second, MaxConns: 100, DrainPeriod: 10 * time.Millisecond,
	}
}

// start serves until the test ends, and returns the address.
func start(t testing.TB, cfg httpfiber.Config, limiter ports.Limiter) string {
	t.Helper()
	_, addr := startServer(t, cfg, limiter, zap.NewNop())
	return addr
}

func startServer(t testing.TB, cfg httpfiber.Config, limiter ports.Limiter, log *zap.Logger) (*httpfiber.Server, string) {
	t.Helper()
	s, err := httpfiber.New(cfg, limiter, permitsOf(limiter), log)
	require.NoError(t, err)
	ln, err := s.Listen()
	require.NoError(t, err)
	serve(t, s, ln)
	return s, ln.Addr().String()
}

// startFor serves connections that all seem to come from peer.
func startFor(t testing.TB, peer string, cfg httpfiber.Config, limiter ports.Limiter) string {
	t.Helper()
	s, err := httpfiber.New(cfg, limiter, permitsOf(limiter), zap.NewNop())
	require.NoError(t, err)
	ln, err := s.Listen()
	require.NoError(t, err)
	serve(t, s, peerListener{ln, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(peer), 4711))})
	return ln.Addr().String()
}

type peerListener struct {
	net.Listener
	peer net.Addr
}

func (l peerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return peerConn{c, l.peer}, err
}

type peerConn struct {
	net.Conn
	peer net.Addr
}

func (c peerConn) RemoteAddr() net.Addr { return c.peer }

type plane interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

// serve serves until the test ends.
func serve(t testing.TB, s plane, ln net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		assert.NoError(t, s.Shutdown(ctx))
		assert.NoError(t, <-served)
	})
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
