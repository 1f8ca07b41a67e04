package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// echoSocket accepts WebSockets, and sends each message back.
func echoSocket(left *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}})
		if err != nil {
			return
		}
		defer left.Add(1)
		c.SetReadLimit(1 << 20)
		for {
			kind, data, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, data); err != nil {
				return
			}
		}
	}
}

// A WebSocket starts with a request in HTTP/1.1, also where both sides speak HTTP/2 too.
func (s *server) socket(ctx context.Context, path string) (*websocket.Conn, *http.Response, error) {
	transport := s.newTransport(protocols[0])
	return websocket.Dial(ctx, s.URL+path, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{"echo"},
	})
}

func TestWebSocket_passes(t *testing.T) {
	t.Parallel()
	for _, client := range protocols[:2] {
		for _, upstream := range protocols[:2] {
			t.Run("client "+client.name+", upstream "+upstream.name, func(t *testing.T) {
				t.Parallel()
				var left atomic.Int32
				s := start(t, client, upstream.upstreamSettings(t, echoSocket(&left)))
				ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
				defer cancel()
				c, res, err := s.socket(ctx, "/chat")
				require.NoError(t, err)
				assert.NotEmpty(t, res.Header.Get("X-RateLimit-Remaining"))
				assert.Equal(t, "echo", c.Subprotocol())
				c.SetReadLimit(1 << 20)
				for _, size := range []int{0, 1, 126, 70_000, 500_000} {
					require.NoError(t, c.Write(ctx, websocket.MessageBinary, []byte(strings.Repeat("x", size))))
					_, got, err := c.Read(ctx)
					require.NoError(t, err)
					assert.Len(t, got, size)
				}
				require.NoError(t, c.Close(websocket.StatusNormalClosure, ""))
				assert.Eventually(t, func() bool { return left.Load() == 1 }, harness.Timeout, harness.Interval)

				c, _, err = s.socket(ctx, "/chat")
				require.NoError(t, err)
				require.NoError(t, c.CloseNow(), "without a word")
				assert.Eventually(t, func() bool { return left.Load() == 2 }, harness.Timeout, harness.Interval)
			})
		}
	}
}

// The 101 is the upstream's, with our headers, and what either side sends with the header arrives.
func TestWebSocket_theSwitchIsUnchanged(t *testing.T) {
	t.Parallel()
	const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	s := start(t, protocols[0], rawUpstream(t, func(c net.Conn, in *bufio.Reader) {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		assert.Equal(t, "websocket", strings.ToLower(r.Header.Get("Upgrade")))
		assert.Equal(t, "upgrade", strings.ToLower(r.Header.Get("Connection")))
		_, _ = io.WriteString(c, switching+"\r\n\r\nat once.")
		got := make([]byte, 6)
		_, _ = io.ReadFull(in, got)
		_, _ = fmt.Fprintf(c, "got %s.", got)
	}))
	conn := s.dial(t)
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nclient")
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	head := readHead(t, in)
	for i, line := range head { // net/http adds a date to every answer but this one, and may spell the token's case otherwise
		head[i] = strings.ReplaceAll(line, "Connection: upgrade", "Connection: Upgrade")
	}
	assert.Equal(t, canonical(strings.Split(switching, "\r\n")), head)
	rest, err := io.ReadAll(in)
	require.NoError(t, err)
	assert.Equal(t, "at once.got client.", string(rest))
}

func TestWebSocket_denied(t *testing.T) {
	t.Parallel()
	var left atomic.Int32
	s := start(t, protocols[0], protocols[0].upstreamSettings(t, echoSocket(&left)), none)
	_, _, err := s.socket(t.Context(), "/")
	require.NoError(t, err)
	_, res, err := s.socket(t.Context(), "/")
	require.Error(t, err)
	assert.Equal(t, http.StatusTooManyRequests, res.StatusCode)
	assert.NotEmpty(t, res.Header.Get("Retry-After"))
}

// No other upgrade passes: the upstream would be spoken to in a protocol whose requests are not decided.
func TestWebSocket_noOtherUpgradePasses(t *testing.T) {
	t.Parallel()
	s := start(t, protocols[0], protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Header["Upgrade"], r.Header["Connection"], r.Header["Http2-Settings"])
	}))
	for _, lines := range []string{
		"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
		"Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n",
		"Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n",
		"Upgrade: websocket\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n",
		"Upgrade: websocket\r\n", // not for the proxy
	} {
		conn := s.dial(t)
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n"+lines+"\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		if res.StatusCode == http.StatusBadRequest { // refused, which is as good
			continue
		}
		assert.Equal(t, http.StatusOK, res.StatusCode, lines)
		assert.Equal(t, "[] [] []", text(t, res), lines)
	}
}

// silentSocket opens a WebSocket over which nothing is sent for a while. Both sides speak the first version of HTTP here.
func silentSocket(t *testing.T, client protocol) func() {
	s := start(t, client, protocols[0].upstreamSettings(t, echoSocket(new(atomic.Int32))), short)
	return func() {
		ctx := t.Context()
		c, _, err := s.socket(ctx, "/")
		if !assert.NoError(t, err) {
			return
		}
		for i, pause := range []time.Duration{0, silence, 0} {
			time.Sleep(pause)
			sent := []byte(fmt.Sprint(i))
			assert.NoError(t, c.Write(ctx, websocket.MessageText, sent))
			_, got, err := c.Read(ctx)
			if !assert.NoError(t, err, "WebSocket, client %s, message %d", client.name, i) {
				return
			}
			assert.Equal(t, string(sent), string(got))
		}
		assert.NoError(t, c.Close(websocket.StatusNormalClosure, ""))
	}
}
