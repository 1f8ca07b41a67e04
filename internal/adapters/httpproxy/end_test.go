package httpproxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpproxy"
)

// runProxy serves in front of an upstream until stop is called.
func runProxy(t *testing.T, upstream string) (addr string, stop func()) {
	t.Helper()
	cfg := proxyConfig(upstream)
	s, err := httpproxy.New(cfg.Config, cfg.Upstream, always(decided(t, 9, 1, true)), new(slots), httpproxy.API{}, zap.NewNop())
	require.NoError(t, err)
	ln, err := s.Listen()
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	return ln.Addr().String(), func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		require.NoError(t, s.Shutdown(ctx))
		require.NoError(t, <-served)
	}
}

// TestProxy_shutdownFinishesWhatIsInFlight: an answer is whole when it returns, whatever the client speaks.
func TestProxy_shutdownFinishesWhatIsInFlight(t *testing.T) {
	for _, version := range []string{"1.0", "1.1"} {
		t.Run(version, func(t *testing.T) {
			var ended atomic.Bool
			begun, stopping := make(chan struct{}), make(chan struct{})
			addr, stop := runProxy(t, startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "one ")
				_ = http.NewResponseController(w).Flush()
				close(begun)
				<-stopping
				time.Sleep(300 * time.Millisecond)
				_, _ = io.WriteString(w, "two")
				ended.Store(true)
			}))
			conn := dial(t, addr)
			_, err := fmt.Fprintf(conn, "GET / HTTP/%s\r\nHost: x\r\n\r\n", version)
			require.NoError(t, err)
			<-begun
			close(stopping)
			stop()
			assert.True(t, ended.Load(), "it did not wait")
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			assert.Equal(t, "one two", read(t, res).body)
		})
	}
}

func TestProxy_shutdownEndsWebSockets(t *testing.T) {
	addr, stop := runProxy(t, startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if c, err := websocket.Accept(w, r, nil); err == nil {
			_, _, _ = c.Read(r.Context())
		}
	}))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	socket, _, err := websocket.Dial(ctx, "ws://"+addr, nil)
	require.NoError(t, err)
	stop()
	_, _, err = socket.Read(ctx)
	assert.Error(t, err)
	assert.NoError(t, ctx.Err(), "it was ended, and not waited for")
}

// TestProxy_leavesNoGoroutineBehind asks in every way that ends early.
func TestProxy_leavesNoGoroutineBehind(t *testing.T) {
	warm := startProxy(t, func(http.ResponseWriter, *http.Request) {}) // what fasthttp starts once for all
	call(t, "GET", "http://"+warm+"/", "")
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	before := goleak.IgnoreCurrent()

	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/breaks":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/early":
			w.Header().Set("Connection", "close")
			_, _ = io.WriteString(w, "enough")
		default:
			_, _ = io.Copy(w, r.Body)
		}
	}))
	addr, stop := runProxy(t, upstream.URL)
	for _, raw := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /breaks HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000),
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf",
		"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\nhalf",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	} {
		for range 3 {
			conn := dial(t, addr)
			_, err := io.WriteString(conn, raw)
			require.NoError(t, err)
			_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			_, _ = io.Copy(io.Discard, conn)
			require.NoError(t, conn.Close())
		}
	}
	stop()
	upstream.Close()
	goleak.VerifyNone(t, before)
}
