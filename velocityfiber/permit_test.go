package velocityfiber_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/velocityfiber"
)

// held reports whether the only permit is held.
func held(t *testing.T, l *velocity.Limiter) bool {
	t.Helper()
	r, err := l.Peek(t.Context(), "127.0.0.1")
	require.NoError(t, err)
	return r.Remaining == 0
}

// eventually requires that the permit is held, or free.
func eventually(t *testing.T, l *velocity.Limiter, want bool, of string) {
	t.Helper()
	assert.Eventually(t, func() bool { return held(t, l) == want }, 5*time.Second, time.Millisecond, of)
}

// endings is an app whose answers end in all ways, once end says so, behind two limits that hold a permit.
func endings(l, other *velocity.Limiter, end chan struct{}) *fiber.App {
	a := fiber.New(fiber.Config{DisableStartupMessage: true})
	a.Use(recover.New(), velocityfiber.Middleware(l), velocityfiber.Middleware(other))
	a.Get("/plain", func(*fiber.Ctx) error { <-end; return nil })
	a.Get("/error", func(*fiber.Ctx) error { <-end; return fiber.ErrTeapot })
	a.Get("/panic", func(*fiber.Ctx) error { <-end; panic("on purpose") })
	a.Get("/stream", func(c *fiber.Ctx) error {
		c.Context().SetBodyStreamWriter(func(w *bufio.Writer) {
			<-end
			_, _ = io.WriteString(w, "event")
		})
		return nil
	})
	a.Get("/forever", func(c *fiber.Ctx) error {
		c.Context().SetBodyStreamWriter(func(w *bufio.Writer) {
			for {
				if _, err := io.WriteString(w, "event"); err != nil || w.Flush() != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
		return nil
	})
	a.Get("/hijack", func(c *fiber.Ctx) error {
		c.Context().Hijack(func(net.Conn) { <-end })
		return nil
	})
	return a
}

func TestPermit_endsWithTheAnswer(t *testing.T) {
	one := velocity.Config{Limits: []velocity.Limit{velocity.Concurrent(1)}}
	l, other, end := limiter(t, one), limiter(t, one), make(chan struct{})
	a := endings(l, other, end)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = a.Listener(ln) }()
	t.Cleanup(func() { assert.NoError(t, a.Shutdown()) })
	for _, path := range []string{"/plain", "/error", "/panic", "/stream", "/hijack", "/forever"} {
		conn, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		require.NoError(t, err)
		for _, limit := range []*velocity.Limiter{l, other} {
			eventually(t, limit, true, path)
		}
		time.Sleep(20 * time.Millisecond)
		assert.True(t, held(t, l), "%s: the answer has not ended", path)
		if path == "/forever" {
			require.NoError(t, conn.Close())
		} else {
			end <- struct{}{}
		}
		for _, limit := range []*velocity.Limiter{l, other} {
			eventually(t, limit, false, path)
		}
		_ = conn.Close()
	}
}

// A server that closes no user values still ends the permit of a stream, when the memory of the request is collected.
func TestPermit_endsBehindAnAdaptor(t *testing.T) {
	one := velocity.Config{Limits: []velocity.Limit{velocity.Concurrent(1)}}
	l, other, end := limiter(t, one), limiter(t, one), make(chan struct{}, 1)
	end <- struct{}{}
	h := adaptor.FiberApp(endings(l, other, end))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/stream", http.NoBody)
	require.NoError(t, err)
	r.RequestURI, r.RemoteAddr = "/stream", "127.0.0.1:1"
	w := &answer{header: http.Header{}}
	h(w, r)
	assert.Equal(t, "event", w.String())
	assert.Eventually(t, func() bool {
		runtime.GC()
		return !held(t, l)
	}, 5*time.Second, 10*time.Millisecond)
}

// answer keeps no request, as httptest's recorder does.
type answer struct {
	strings.Builder
	header http.Header
}

func (a *answer) Header() http.Header { return a.header }
func (a *answer) WriteHeader(int)     {}
