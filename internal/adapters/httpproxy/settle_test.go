package httpproxy_test

import (
	"bufio"
	"context"
	"fmt"
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

	"github.com/velocity-limiter/velocity/internal/adapters/httpproxy"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// settlements is a Limiter that takes 100 tokens from each request, and writes down what it is asked for afterwards.
type settlements struct {
	ports.Permits                   // nil: only End is called
	decision      decision.Decision // of each request
	policy        policy.Policy
	takes         time.Duration // to settle

	mu     sync.Mutex
	events []string
}

func (l *settlements) note(event string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, event)
}

// Decide implements ports.Limiter.
func (l *settlements) Decide(_ context.Context, req policy.Request) (decision.Decision, error) {
	if req.Op != domain.OpTake {
		time.Sleep(l.takes)
	}
	switch req.Op {
	case domain.OpSettle:
		if req.Cost > 0 {
			l.note(fmt.Sprint("charge ", req.Cost))
		} else {
			l.note(fmt.Sprint("refund ", -req.Cost))
		}
	case domain.OpUndo:
		l.note(fmt.Sprint("undo ", req.Cost))
	default:
		d := l.decision
		d.Policy, d.AppliedPolicy, d.Cost = "metered", &l.policy, 100
		return d, nil
	}
	return decision.Decision{}, ports.ErrUnavailable // it may have been carried out
}

// DecideMany implements ports.Limiter.
func (l *settlements) DecideMany(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	for i := range reqs {
		answers[i].Decision, answers[i].Err = l.Decide(ctx, reqs[i])
	}
}

// DecideAtomic implements ports.Limiter.
func (l *settlements) DecideAtomic(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	l.DecideMany(ctx, reqs, answers)
}

// End implements ports.Permits.
func (l *settlements) End(permit string, cost domain.Tokens) {
	if permit != "" {
		l.note(fmt.Sprint("end ", permit, " ", cost))
	}
}

// Settled implements ports.CostObserver.
func (l *settlements) Settled(policyName string, estimate, actual domain.Tokens, missing bool) {
	l.note(fmt.Sprintf("%s: %d, %d, missing %t", policyName, estimate, actual, missing))
}

// happened waits for the events of a request that has ended, and forgets them.
func (l *settlements) happened(t *testing.T, of string, want ...string) {
	t.Helper()
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		l.mu.Lock()
		defer l.mu.Unlock()
		assert.Equal(c, want, l.events, of)
	}, patience, tick)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = nil
}

// metered is a policy whose requests cost what a header says, and 30 if that is missing.
func metered() policy.Policy {
	missing := domain.Tokens(30)
	return policy.Policy{Cost: policy.Cost{Actual: policy.Actual{Header: "x-tokens"}, Missing: &missing, Failed: 7}}
}

// startSettling serves in front of an upstream whose answers end in all ways.
func startSettling(t *testing.T, l *settlements) (s *httpproxy.Server, addr string) {
	t.Helper()
	cfg := proxyConfig(startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		path, tokens, _ := strings.Cut(r.URL.Path[1:], "/")
		if tokens != "" {
			w.Header()["X-Tokens"] = strings.Split(tokens, "/")
		}
		switch path {
		case "whole":
			_, _ = io.Copy(w, r.Body)
			_, _ = io.WriteString(w, "hello")
		case "stream":
			_, _ = io.WriteString(w, "hello")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "again")
		case "trailer", "trailer-breaks":
			tokens := w.Header()["X-Tokens"]
			delete(w.Header(), "X-Tokens")
			_, _ = io.WriteString(w, "hello")
			_ = http.NewResponseController(w).Flush()
			w.Header()[http.TrailerPrefix+"X-Tokens"] = tokens
			if path == "trailer-breaks" {
				panic(http.ErrAbortHandler)
			}
		case "none":
			w.WriteHeader(http.StatusNoContent)
		case "fails":
			w.WriteHeader(http.StatusTooManyRequests)
		case "breaks":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "gone":
			panic(http.ErrAbortHandler)
		case "silent", "silent-stream":
			if path == "silent-stream" {
				_ = http.NewResponseController(w).Flush()
			}
			<-r.Context().Done()
		case "panic":
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	cfg.Upstream.Timeout = 3 * time.Second
	s, err := httpproxy.New(cfg.Config, cfg.Upstream, l, l, httpproxy.API{}, zap.NewNop())
	require.NoError(t, err)
	s.ObserveCosts(l)
	s.OnUpstream(func(status int, _ time.Duration) {
		if status == http.StatusTeapot {
			panic("on purpose")
		}
	})
	return s, servePlane(t, s).addr
}

// TestSettle_onceHoweverTheRequestEnds: with a permit by its end, in the same step.
func TestSettle_onceHoweverTheRequestEnds(t *testing.T) {
	for _, c := range []struct {
		path           string
		actual         int // of the 100 that were taken
		missing        bool
		settlement     string
		leaves, breaks bool
	}{
		{path: "whole/250", actual: 250, settlement: "charge 150"},
		{path: "whole/0", actual: 0, settlement: "refund 100"},
		{path: "whole/100", actual: 100},
		{path: "stream/40", actual: 40, settlement: "refund 60"},
		{path: "none/40", actual: 40, settlement: "refund 60"},
		{path: "trailer/40", actual: 40, settlement: "refund 60"},
		{path: "trailer/many", actual: 30, missing: true, settlement: "refund 70"},
		{path: "trailer-breaks/250", actual: 100, breaks: true},
		{path: "whole", actual: 30, missing: true, settlement: "refund 70"},
		{path: "whole/many", actual: 30, missing: true, settlement: "refund 70"},
		{path: "whole/1.5", actual: 30, missing: true, settlement: "refund 70"},
		{path: "whole/-1", actual: 30, missing: true, settlement: "refund 70"},
		{path: "whole/2147483648", actual: 30, missing: true, settlement: "refund 70"},
		{path: "whole/40/40", actual: 30, missing: true, settlement: "refund 70"},
		{path: "fails", actual: 7, settlement: "refund 93"},
		{path: "fails/40", actual: 40, settlement: "refund 60"},
		{path: "gone", actual: 7, settlement: "refund 93"},
		{path: "silent", actual: 7, settlement: "refund 93"},
		{path: "panic/40", actual: 7, settlement: "refund 93"},
		{path: "breaks/40", actual: 100, breaks: true},
		{path: "breaks/250", actual: 250, settlement: "charge 150", breaks: true},
		{path: "silent", actual: 100, leaves: true},
		{path: "silent-stream/40", actual: 100, leaves: true},
		{path: "silent-stream/250", actual: 250, settlement: "charge 150", leaves: true},
	} {
		for _, permit := range []string{"", "p"} {
			name := fmt.Sprint(c.path, " leaves ", c.leaves, " permit ", permit)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := &settlements{policy: metered(), decision: decision.Decision{Outcome: decision.OutcomeAllowed, Taken: true, Permit: permit}}
				_, addr := startSettling(t, l)
				if c.leaves {
					leave(t, addr, c.path)
				} else {
					res, err := http.Get("http://" + addr + "/" + c.path)
					require.NoError(t, err)
					_, err = io.ReadAll(res.Body)
					assert.Equal(t, c.breaks, err != nil, err)
					require.NoError(t, res.Body.Close())
				}
				want := []string{fmt.Sprintf("metered: 100, %d, missing %t", c.actual, c.missing)}
				if permit != "" {
					want = append(want, fmt.Sprint("end p ", c.actual))
				} else if c.settlement != "" {
					want = append(want, c.settlement)
				}
				l.happened(t, name, want...)
			})
		}
	}
}

// leave sends a request, and closes the connection once it has reached the upstream.
func leave(t *testing.T, addr, path string) {
	t.Helper()
	conn := dial(t, addr)
	_, err := fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	require.NoError(t, err)
	if strings.HasPrefix(path, "silent-stream") {
		_, err = http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
	}
	require.NoError(t, conn.Close())
}

// TestSettle_beforeTheTokensComeBack: what comes back is what was taken, once, and only after a whole answer.
func TestSettle_beforeTheTokensComeBack(t *testing.T) {
	refundOn, err := policy.ParseRefundOn("2xx")
	require.NoError(t, err)
	for path, want := range map[string][]string{
		"whole/250":  {"undo 100", "metered: 100, 0, missing false"},
		"stream/250": {"undo 100", "metered: 100, 0, missing false"},
		"whole":      {"undo 100", "metered: 100, 0, missing false"},
		"breaks/250": {"metered: 100, 250, missing false", "charge 150"},
		"fails":      {"metered: 100, 7, missing false", "refund 93"},
	} {
		for _, permit := range []string{"", "p"} {
			l := &settlements{policy: metered()}
			l.decision = decision.Decision{Outcome: decision.OutcomeAllowed, Taken: true, Permit: permit, RefundOn: refundOn}
			_, addr := startSettling(t, l)
			res, err := http.Get("http://" + addr + "/" + path)
			require.NoError(t, err)
			_, _ = io.Copy(io.Discard, res.Body) // it may break off
			require.NoError(t, res.Body.Close())
			want := append([]string(nil), want...)
			if permit != "" && want[0] == "undo 100" {
				want = append([]string{"end p -1"}, want...)
			} else if permit != "" {
				want[1] = map[string]string{"breaks/250": "end p 250", "fails": "end p 7"}[path]
			}
			l.happened(t, path+permit, want...)
		}
	}
}

// TestSettle_nothing where nothing was taken, or what was taken is the cost.
func TestSettle_nothing(t *testing.T) {
	known := metered()
	known.Cost = policy.Cost{}
	for name, l := range map[string]*settlements{
		"denied":                  {policy: metered()},
		"denied in shadow mode":   {policy: metered(), decision: decision.Decision{Shadow: true}},
		"exempt":                  {policy: metered(), decision: decision.Decision{Outcome: decision.OutcomeExempt}},
		"let pass without store":  {policy: metered(), decision: decision.Decision{Outcome: decision.OutcomeAllowed}},
		"the cost is known":       {policy: known, decision: decision.Decision{Outcome: decision.OutcomeAllowed, Taken: true}},
		"no policy, nothing held": {decision: decision.Decision{Outcome: decision.OutcomeAllowed}},
	} {
		_, addr := startSettling(t, l)
		for _, path := range []string{"/whole/250", "/fails", "/none"} {
			call(t, "GET", "http://"+addr+path, "")
		}
		l.happened(t, name)
	}
	shadow := &settlements{policy: metered(), decision: decision.Decision{Outcome: decision.OutcomeAllowed, Shadow: true, Taken: true}}
	_, addr := startSettling(t, shadow)
	call(t, "GET", "http://"+addr+"/whole/250", "")
	shadow.happened(t, "shadow mode", "metered: 100, 250, missing false", "charge 150")
}

// TestSettle_halfARequest is answered by us, but broken off by its client.
func TestSettle_halfARequest(t *testing.T) {
	l := &settlements{policy: metered(), decision: decision.Decision{Outcome: decision.OutcomeAllowed, Taken: true}}
	_, addr := startSettling(t, l)
	got := exchange(t, addr, "POST /whole/250 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 1)[0]
	assert.Equal(t, 400, got.status)
	l.happened(t, "malformed", "metered: 100, 100, missing false")
}

// TestSettle_aWebSocket costs what was taken: what it carries is not read.
func TestSettle_aWebSocket(t *testing.T) {
	l := &settlements{policy: metered(), decision: decision.Decision{Outcome: decision.OutcomeAllowed, Taken: true}}
	url := rawUpstream(t, func(c net.Conn, in *bufio.Reader) {
		if _, err := http.ReadRequest(in); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
		}
	})
	cfg := proxyConfig(url)
	s, err := httpproxy.New(cfg.Config, cfg.Upstream, l, l, httpproxy.API{}, zap.NewNop())
	require.NoError(t, err)
	s.ObserveCosts(l)
	conn := dial(t, servePlane(t, s).addr)
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	require.NoError(t, err)
	all, err := io.ReadAll(conn)
	require.NoError(t, err)
	assert.True(t, strings.HasSuffix(string(all), "\r\n\r\nhello"))
	l.happened(t, "websocket", "metered: 100, 100, missing false")
}

// endGrace is how long Shutdown waits at least.
const endGrace = time.Second

// TestSettle_whenTheServerStops: requests that it cuts off settle before Shutdown returns.
func TestSettle_whenTheServerStops(t *testing.T) {
	l := &settlements{policy: metered(), decision: decision.Decision{Outcome: decision.OutcomeAllowed, Taken: true}}
	l.takes = endGrace / 3
	s, addr := startSettling(t, l)
	for _, http2 := range []bool{false, true} {
		res, err := clientOf(t, http2).Get("http://" + addr + "/silent-stream/250")
		require.NoError(t, err)
		defer func() { _ = res.Body.Close() }()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
	l.mu.Lock()
	defer l.mu.Unlock()
	assert.ElementsMatch(t, []string{
		"metered: 100, 250, missing false", "charge 150", "metered: 100, 250, missing false", "charge 150",
	}, l.events)
}
