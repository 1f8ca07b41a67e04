package httpproxy_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// TestProxy_forwardedHeaders: "" means that the header must not be there.
func TestProxy_forwardedHeaders(t *testing.T) {
	const forged = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\nX-Forwarded-Proto: https\r\n" +
		"X-Forwarded-Host: api.example.com\r\nX-Forwarded-Port: 443\r\nX-Real-IP: 192.0.2.1\r\n" +
		"Forwarded: for=192.0.2.1;proto=https\r\n"
	for name, c := range map[string]struct {
		trusted []string
		lines   string
		want    map[string]string
	}{
		"nothing said": {nil, "", map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "x",
			"Forwarded": `for=127.0.0.1;host="x";proto=http`, "Connection": "", "X-Real-Ip": "",
		}},
		"untrusted": {nil, forged, map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "x", "X-Forwarded-Port": "",
			"X-Real-Ip": "", "Forwarded": `for=127.0.0.1;host="x";proto=http`,
		}},
		"trusted": {[]string{"loopback"}, forged, map[string]string{
			"X-Forwarded-For": "192.0.2.1, 192.0.2.2, 127.0.0.1", "X-Forwarded-Proto": "https",
			"X-Forwarded-Host": "api.example.com", "X-Forwarded-Port": "443", "X-Real-Ip": "192.0.2.1",
			"Forwarded": `for=192.0.2.1;proto=https, for=127.0.0.1;host="x";proto=http`,
		}},
		"trusted, twice": {[]string{"loopback"}, "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n", map[string]string{
			"X-Forwarded-Proto": "http", "X-Forwarded-Host": "x",
		}},
		"taken away by Connection": {
			[]string{"loopback"},
			"Connection: X-Forwarded-For, X-Hop,Authorization\r\nX-Forwarded-For: 192.0.2.1\r\nX-Hop: 1\r\nAuthorization: a\r\n",
			map[string]string{"X-Forwarded-For": "192.0.2.1, 127.0.0.1", "X-Hop": "", "Authorization": "", "Connection": ""},
		},
		"for us alone": {nil, "Connection: close, TE\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: a\r\n" +
			"TE: deflate\r\nTrailer: X-A\r\n", map[string]string{
			"Keep-Alive": "", "Proxy-Connection": "", "Proxy-Authorization": "", "Te": "", "Trailer": "",
		}},
		"other URLs": {
			[]string{"loopback"},
			"X-Original-URL: /admin\r\nX-Original-URI: /admin\r\nX-Original-Host: y\r\nX-Rewrite-URL: /admin\r\n",
			map[string]string{"X-Original-Url": "", "X-Original-Uri": "", "X-Original-Host": "", "X-Rewrite-Url": ""},
		},
		"underscores": {[]string{"loopback"}, "X_Forwarded_For: 192.0.2.1\r\nX-Forwarded_For: 192.0.2.1\r\n_: a\r\n", map[string]string{
			"X_forwarded_for": "", "X-Forwarded_for": "", "_": "", "X-Forwarded-For": "127.0.0.1",
		}},
		"as it was sent": {
			nil, "Cookie: a=\"b c\"; d; e=f\r\nCookie: g=h\r\nUser-Agent: one\r\naCCept: */*\r\nX-Empty:\r\n",
			map[string]string{"Cookie": `a="b c"; d; e=f|g=h`, "User-Agent": "one", "Accept": "*/*"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := new(recorder)
			addr := openRecorded(t, w, c.trusted...)
			got := exchange(t, addr, plainly("/x", c.lines), 1)[0]
			require.Equal(t, 200, got.status, got.body)
			for header, want := range c.want {
				assert.Equal(t, want, strings.Join(w.upstream[header], "|"), header)
			}
			assert.Equal(t, got.header.Get("X-Request-Id"), w.upstream.Get("X-Request-Id"))
		})
	}
}

func TestProxy_theHostIsTheClientsUnlessSet(t *testing.T) {
	for set, want := range map[string]string{"": "API.example.com:81", "internal:8080": "internal:8080"} {
		var host, forwarded string
		cfg := proxyConfig(startUpstream(t, func(_ http.ResponseWriter, r *http.Request) {
			host, forwarded = r.Host, r.Header.Get("X-Forwarded-Host")
		}))
		cfg.Upstream.Host = set
		addr := start(t, cfg, always(decided(t, 9, 1, true)))
		for _, raw := range []string{
			"GET / HTTP/1.1\r\nHost: API.example.com:81\r\n\r\n",
			"GET http://API.example.com:81/ HTTP/1.1\r\nHost: other\r\n\r\n",
		} {
			exchange(t, addr, raw, 1)
			assert.Equal(t, want, host)
			assert.Equal(t, "API.example.com:81", forwarded)
		}
	}
}

func TestProxy_targetsThatCannotBeForwarded(t *testing.T) {
	w := new(recorder)
	addr := openRecorded(t, w)
	for _, raw := range []string{
		"GET /a?b c HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /a?b\tc HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: x\",for=evil\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: x, y\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: x/y\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET a HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: x\r\nX(Y: b\r\n\r\n",
	} {
		got := exchange(t, addr, raw, 1)[0]
		got.refused(t, raw)
	}
	assert.Empty(t, w.reached)
	assert.Empty(t, w.decided)
}

// refundRecorder is a limiter that notes takes and refunds.
type refundRecorder struct {
	mu       sync.Mutex
	decision decision.Decision
	refunds  []policy.Request
	keys     []string // what the takes and the refunds looked up
}

func (l *refundRecorder) decide(req policy.Request) (decision.Decision, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key, err := req.Lookup(clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-client-id"})
	if err != nil {
		return decision.Decision{}, err
	}
	l.keys = append(l.keys, strings.Clone(key))
	if req.Op == domain.OpUndo {
		l.refunds = append(l.refunds, req)
		return decision.Decision{}, errors.New("it is unknown whether it was carried out") // so that a second one would show
	}
	return l.decision, nil
}

func TestProxy_tokensComeBackAsThePolicySays(t *testing.T) {
	statuses, err := policy.ParseRefundOn("503", "502", "504")
	require.NoError(t, err)
	allowed := decided(t, 9, 3, true)
	allowed.Cost, allowed.RefundOn, allowed.AppliedPolicy = 3, statuses, &policy.Policy{Name: "p"}
	unasked := allowed
	unasked.RefundOn = policy.StatusSet{}
	answers := func(status int) string {
		return startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
		})
	}
	silent := rawUpstream(t, func(_ net.Conn, in *bufio.Reader) { _, _ = io.Copy(io.Discard, in) })
	for name, c := range map[string]struct {
		url      string
		decision decision.Decision
		raw      string
		status   int
		refunds  int
	}{
		"in the set":           {answers(503), allowed, "", 503, 1},
		"not in the set":       {answers(500), allowed, "", 500, 0},
		"success":              {answers(200), allowed, "", 200, 0},
		"nothing taken":        {answers(503), unasked, "", 503, 0},
		"dead, and named":      {deadURL, allowed, "", 502, 1},
		"dead, and not named":  {deadURL, unasked, "", 502, 0},
		"slow, and named":      {silent, allowed, "", 504, 1},
		"the client's failure": {answers(503), allowed, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, 0},
		"a trailer names another client": {answers(503), allowed, "POST / HTTP/1.1\r\nHost: x\r\nX-Client-ID: alice\r\n" +
			"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Client-ID: bob\r\n\r\n", 503, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := &refundRecorder{decision: c.decision}
			cfg := proxyConfig(c.url)
			cfg.Upstream.Timeout = 300 * time.Millisecond
			s, addr := startServer(t, cfg, limiterFunc(l.decide), zap.NewNop())
			raw := c.raw
			if raw == "" {
				raw = "GET / HTTP/1.1\r\nHost: x\r\nX-Client-ID: alice\r\n\r\n"
			}
			assert.Equal(t, c.status, exchange(t, addr, raw, 1)[0].status)
			require.NoError(t, s.Shutdown(t.Context())) // the handler has returned
			require.Len(t, l.refunds, c.refunds)
			for _, refund := range l.refunds {
				assert.Equal(t, domain.Tokens(3), refund.Cost)
				assert.Equal(t, "p", refund.CallerPolicy.Name)
				assert.Equal(t, []string{"alice", "alice"}, l.keys)
			}
		})
	}
}

// TestProxy_whoLeavesPays: else a client could have the upstream work for nothing.
func TestProxy_whoLeavesPays(t *testing.T) {
	statuses, err := policy.ParseRefundOn("502", "504")
	require.NoError(t, err)
	allowed := decided(t, 9, 1, true)
	allowed.Cost, allowed.RefundOn, allowed.AppliedPolicy = 1, statuses, &policy.Policy{Name: "p"}
	l := &refundRecorder{decision: allowed}
	asked, left := make(chan struct{}), make(chan struct{})
	url := startUpstream(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(left)
	})
	s, addr := startServer(t, proxyConfig(url), limiterFunc(l.decide), zap.NewNop())
	conn := dial(t, addr)
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	<-asked
	require.NoError(t, conn.Close())
	<-left
	require.NoError(t, s.Shutdown(t.Context())) // the handler has returned
	assert.Empty(t, l.refunds)
}
