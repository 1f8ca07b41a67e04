package httpproxy_test

import (
	"context"
	"fmt"
	"io"
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

// slots is a Limiter of one permit at once.
type slots struct {
	decision decision.Decision                                   // of a request that gets the permit
	wait     func(ctx context.Context, req policy.Request) error // of such a request; may be nil

	mu     sync.Mutex
	holder string // the permit that is held, or ""
	last   int
	events []string
}

func (s *slots) note(event string) { s.events = append(s.events, event) }

// Decide implements ports.Limiter.
func (s *slots) Decide(ctx context.Context, req policy.Request) (decision.Decision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.Op == domain.OpUndo {
		s.note("undo " + req.Permit)
		return decision.Decision{}, ports.ErrUnavailable // it may have been carried out
	}
	if !req.Hold {
		return decision.Decision{}, ports.ErrCannotHold
	}
	if s.holder != "" {
		return decision.Decision{Policy: "default"}, nil
	}
	s.last++
	permit := fmt.Sprint(s.last)
	if s.holder = permit; s.wait != nil {
		s.mu.Unlock()
		err := s.wait(ctx, req)
		s.mu.Lock()
		if err != nil {
			s.holder = ""
			return decision.Decision{}, err
		}
	}
	d := s.decision
	d.Outcome, d.AppliedPolicy = decision.OutcomeAllowed, new(policy.Policy)
	d.Permit, d.PermitID = "text "+permit, permit
	return d, nil
}

// DecideMany implements ports.Limiter.
func (s *slots) DecideMany(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	for i := range reqs {
		answers[i].Decision, answers[i].Err = s.Decide(ctx, reqs[i])
	}
}

// DecideAtomic implements ports.Limiter.
func (s *slots) DecideAtomic(ctx context.Context, reqs []policy.Request, answers []ports.Answer) {
	s.DecideMany(ctx, reqs, answers)
}

// End implements ports.Permits.
func (s *slots) End(permit string, cost domain.Tokens) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if permit != "" {
		s.note(fmt.Sprint("end ", permit, " ", cost))
	}
	if permit == "text "+s.holder {
		s.holder = ""
	}
}

// Release implements ports.Permits.
func (s *slots) Release(context.Context, string, domain.Tokens) (bool, error) { panic("released") }

// Renew implements ports.Permits.
func (s *slots) Renew(context.Context, string) (time.Duration, error) { panic("renewed") }

// happened waits for events, and requires that nothing else has happened by then.
func (s *slots) happened(t *testing.T, want ...string) {
	t.Helper()
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		s.mu.Lock()
		defer s.mu.Unlock()
		assert.Equal(c, want, s.events)
	}, patience, tick)
}

// TestPermit_endsOnceHoweverTheExchangeEnds: test/proxy has the ends that need no fault of the proxy's own.
func TestPermit_endsOnceHoweverTheExchangeEnds(t *testing.T) {
	one, err := policy.ParseRefundOn("2xx")
	require.NoError(t, err)
	for name, c := range map[string]struct {
		path   string
		refund bool
		want   []string
	}{
		"a whole answer":    {"/", false, []string{"end text 1 -1"}},
		"a handler panics":  {"/panic", false, []string{"end text 1 -1"}},
		"the tokens return": {"/", true, []string{"end text 1 -1", "undo 1"}},
		"half an answer":    {"/half", true, []string{"end text 1 -1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limiter := new(slots)
			if c.refund {
				limiter.decision.RefundOn = one
			}
			cfg := proxyConfig(startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/panic":
					w.WriteHeader(http.StatusTeapot)
				case "/half":
					_, _ = io.WriteString(w, "half")
					_ = http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				}
			}))
			s, err := httpproxy.New(cfg.Config, cfg.Upstream, limiter, limiter, httpproxy.API{}, zap.NewNop())
			require.NoError(t, err)
			s.OnUpstream(func(status int, _ time.Duration) {
				if status == http.StatusTeapot {
					panic("on purpose")
				}
			})
			addr := servePlane(t, s).addr
			res, err := http.Get("http://" + addr + c.path)
			require.NoError(t, err)
			_, _ = io.Copy(io.Discard, res.Body) // it may break off
			require.NoError(t, res.Body.Close())
			limiter.happened(t, c.want...)
		})
	}
}

// TestPermit_waitsAsLongAsItsClientStays: a client that leaves while its request waits ends the wait, and nothing is forwarded. net/http
// reads no further than the beginning of the body by itself, and does not notice a client that leaves before it was read.
func TestPermit_waitsAsLongAsItsClientStays(t *testing.T) {
	for name, request := range map[string]string{
		"no body":                  "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"a body":                   "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
		"a body that stops":        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe",
		"a body that is asked for": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			limiter := new(slots)
			waiting := make(chan struct{})
			limiter.wait = func(ctx context.Context, req policy.Request) error {
				assert.Equal(t, policy.MaxMaxWait, req.MaxWait, "the policy says how long")
				waiting <- struct{}{}
				if req.BeforeWait != nil {
					if err := req.BeforeWait(); err != nil {
						return err
					}
				}
				<-ctx.Done()
				return fmt.Errorf("%w: %w", ports.ErrUnavailable, context.Cause(ctx))
			}
			addr := start(t, proxyConfig(startUpstream(t, func(http.ResponseWriter, *http.Request) {
				t.Error("it was forwarded")
			})), limiter)
			conn := dial(t, addr)
			_, err := io.WriteString(conn, request)
			require.NoError(t, err)
			<-waiting
			assert.Equal(t, 429, call(t, "GET", "http://"+addr+"/", "").status, "the one that waits holds the permit")
			require.NoError(t, conn.Close())
			assert.Eventually(t, func() bool {
				limiter.mu.Lock()
				defer limiter.mu.Unlock()
				return limiter.holder == ""
			}, patience, tick)
			limiter.happened(t)
		})
	}
}

// TestPermit_aBodyIsForwardedAfterAWait, as it was sent. One without an end in sight is not read before: its client may be waiting for an
// answer to its beginning.
func TestPermit_aBodyIsForwardedAfterAWait(t *testing.T) {
	endless, end := io.Pipe()
	go func() { _, _ = io.WriteString(end, "hello") }()
	for name, c := range map[string]struct {
		body io.Reader
		want string
	}{
		"small":          {strings.NewReader("hello"), "hello"},
		"large":          {strings.NewReader(strings.Repeat("x", policy.MaxCostBody+1)), strings.Repeat("x", policy.MaxCostBody+1)},
		"without an end": {endless, "hello"},
	} {
		limiter := new(slots)
		limiter.wait = func(_ context.Context, req policy.Request) error { return req.BeforeWait() }
		got := make([]byte, len(c.want))
		addr := start(t, proxyConfig(startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			assert.NoError(t, http.NewResponseController(w).EnableFullDuplex())
			_, err := io.ReadFull(r.Body, got)
			assert.NoError(t, err, name)
		})), limiter)
		res, err := http.Post("http://"+addr+"/", "text/plain", c.body)
		require.NoError(t, err, name)
		require.NoError(t, res.Body.Close())
		assert.Equal(t, http.StatusOK, res.StatusCode, name)
		assert.Equal(t, c.want, string(got), name)
	}
	require.NoError(t, end.Close())
}

// TestPermit_bodiesOfWaitingRequestsLeaveMemoryForEstimates: of 20 bytes, the first that waits holds 12, and no further one reads its body.
func TestPermit_bodiesOfWaitingRequestsLeaveMemoryForEstimates(t *testing.T) {
	turn, waiting := make(chan struct{}), make(chan struct{})
	cfg := proxyConfig(startUpstream(t, func(http.ResponseWriter, *http.Request) {}))
	cfg.Upstream.BodyBytes = 20
	addr := start(t, cfg, limiterFunc(func(req policy.Request) (decision.Decision, error) {
		if req.Path == "/estimate" {
			body, err := req.Body()
			assert.NoError(t, err)
			assert.Equal(t, "hello", string(body))
			return decided(t, 9, 1, true), nil
		}
		assert.NoError(t, req.BeforeWait())
		waiting <- struct{}{}
		<-turn
		return decided(t, 9, 1, true), nil
	}))
	var all sync.WaitGroup
	for _, body := range []string{"twelve bytes", "hello"} {
		all.Go(func() { assert.Equal(t, 200, call(t, "POST", "http://"+addr+"/waits", body).status) })
		<-waiting
	}
	assert.Equal(t, 200, call(t, "POST", "http://"+addr+"/estimate", "hello").status)
	close(turn)
	all.Wait()
}
