package httpfiber_test

import (
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/webtest"
)

// limiterFunc is a Limiter of one function.
type limiterFunc = webtest.LimiterFunc

// always answers every request alike.
func always(d decision.Decision) limiterFunc { return webtest.Always(d) }

func burst(t testing.TB) domain.Limit {
	t.Helper()
	return webtest.Burst(t)
}

// decided is a decision of a policy of one limit with so many tokens left.
func decided(t testing.TB, left, cost domain.Tokens, allowed bool) decision.Decision {
	t.Helper()
	return webtest.Decided(t, left, cost, allowed)
}

// permitsOf is the limiter itself if it has permits, else nil.
func permitsOf(limiter ports.Limiter) ports.Permits {
	permits, _ := limiter.(ports.Permits)
	return permits
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

// serve serves until the test ends.
func serve(t testing.TB, s webtest.Server, ln net.Listener) {
	t.Helper()
	webtest.Serve(t, s, ln)
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
