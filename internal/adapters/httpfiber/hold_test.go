package httpfiber_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// holder is a Limiter that grants a permit to each request that can hold one, and notes which have ended.
type holder struct {
	limiterFunc
	mu     sync.Mutex
	events []string
}

func newHolder(t *testing.T, refundOn policy.StatusSet) *holder {
	h := new(holder)
	allowed := decided(t, 9, 1, true)
	allowed.Permit, allowed.PermitID, allowed.RefundOn, allowed.AppliedPolicy = "text", "id", refundOn, new(policy.Policy)
	h.limiterFunc = func(req policy.Request) (decision.Decision, error) {
		switch {
		case req.Op == domain.OpUndo:
			h.note("undo " + req.Permit)
		case !req.Hold:
			return decision.Decision{}, ports.ErrCannotHold
		default:
			h.note("take, " + req.MaxWait.String())
		}
		return allowed, nil
	}
	return h
}

func (h *holder) note(event string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, event)
}

// seen returns what has happened so far.
func (h *holder) seen() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.events...)
}

// End implements ports.Permits.
func (h *holder) End(permit string, cost domain.Tokens) {
	h.note(fmt.Sprint("end ", permit, " ", cost))
}

// Release implements ports.Permits.
func (h *holder) Release(context.Context, string, domain.Tokens) (bool, error) { panic("released") }

// Renew implements ports.Permits.
func (h *holder) Renew(context.Context, string) (time.Duration, error) { panic("renewed") }

func TestMiddleware_holdsThePermitUntilTheAnswerHasEnded(t *testing.T) {
	refunded, err := policy.ParseRefundOn("2xx")
	require.NoError(t, err)
	const taken, ended = "take, 1h0m0s", "end text -1"
	for name, c := range map[string]struct {
		refundOn policy.StatusSet
		answer   fiber.Handler
		want     []string
	}{
		"plain":    {policy.StatusSet{}, func(c *fiber.Ctx) error { return c.SendString("x") }, []string{taken, ended}},
		"an error": {policy.StatusSet{}, func(*fiber.Ctx) error { return fiber.ErrTeapot }, []string{taken, ended}},
		"a panic":  {policy.StatusSet{}, func(*fiber.Ctx) error { panic("on purpose") }, []string{taken, ended}},
		"refunded": {refunded, func(*fiber.Ctx) error { return nil }, []string{taken, "undo id", ended}},
	} {
		h := newHolder(t, c.refundOn)
		app := fiber.New()
		app.Get("/", recover.New(), httpfiber.RateLimitMiddleware(h, httpfiber.WithPermits(h)), c.answer)
		res, err := app.Test(httptest.NewRequest(http.MethodGet, "/", http.NoBody))
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		assert.Equal(t, c.want, h.seen(), name)
	}
}

// fasthttp sends streams, and serves hijacked connections, when the handlers have returned.
// A refund of the tokens does not end their permit.
func TestMiddleware_holdsThePermitOfAStream(t *testing.T) {
	refunded, err := policy.ParseRefundOn("2xx")
	require.NoError(t, err)
	for name, answer := range map[string]func(ctx *fiber.Ctx, end func()) error{
		"stream": func(c *fiber.Ctx, end func()) error {
			c.Context().SetBodyStreamWriter(func(w *bufio.Writer) {
				end()
				_, _ = io.WriteString(w, "event")
			})
			return nil
		},
		"hijacked": func(c *fiber.Ctx, end func()) error {
			c.Context().Hijack(func(net.Conn) { end() })
			return nil
		},
	} {
		h := newHolder(t, refunded)
		began, end := make(chan struct{}), make(chan struct{})
		app := fiber.New(fiber.Config{DisableStartupMessage: true})
		app.Get("/", httpfiber.RateLimitMiddleware(h, httpfiber.WithPermits(h)), func(c *fiber.Ctx) error {
			return answer(c, func() { close(began); <-end })
		})
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		go func() { _ = app.Listener(ln) }()
		conn := dial(t, ln.Addr().String())
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		<-began
		require.Eventually(t, func() bool { return len(h.seen()) > 1 }, 5*time.Second, time.Millisecond, "%s: the tokens are refunded", name)
		time.Sleep(20 * time.Millisecond)
		assert.Len(t, h.seen(), 2, "%s: it has not ended", name)
		close(end)
		assert.Eventually(t, func() bool { return len(h.seen()) > 2 }, 5*time.Second, time.Millisecond, name)
		require.NoError(t, conn.Close())
		require.NoError(t, app.Shutdown())
		assert.Equal(t, []string{"take, 1h0m0s", "undo none", "end text -1"}, h.seen(), name)
	}
}

// The protected resource holds a permit, but does not wait. Without WithPermits a middleware cannot hold one.
func TestResource_holdsAndDoesNotWait(t *testing.T) {
	h := newHolder(t, policy.StatusSet{})
	addr := start(t, testConfig(), h)
	assert.Equal(t, 200, call(t, "GET", "http://"+addr+"/api/resource", "").status)
	assert.Equal(t, []string{"take, 0s", "end text -1"}, h.seen())

	app := fiber.New()
	app.Get("/", httpfiber.RateLimitMiddleware(h))
	res, err := app.Test(httptest.NewRequest(http.MethodGet, "/", http.NoBody))
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	assert.Equal(t, http.StatusNotImplemented, res.StatusCode)
}
