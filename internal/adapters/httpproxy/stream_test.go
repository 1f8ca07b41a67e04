package httpproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestProxy_trailersPassBothWays(t *testing.T) {
	addr := startProxy(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum, X-Seen")
		w.Header().Set("X-Te", r.Header.Get("Te"))
		_, _ = w.Write(body)
		w.Header().Set("X-Sum", "of "+string(body))
		w.Header().Set("X-Seen", fmt.Sprint(r.Trailer))
	})
	conn := dial(t, addr)
	_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nTE: trailers, deflate\r\nConnection: TE\r\nX-Once: 1\r\n"+
		"Trailer: X-Check, X-Once, X_Under\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"5\r\nhello\r\n0\r\nX-Check: yes\r\nX-Once: 2\r\nX_Under: no\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	got := read(t, res)
	assert.Equal(t, "hello", got.body)
	assert.Equal(t, "trailers", got.header.Get("X-Te"))
	assert.Equal(t, "of hello", res.Trailer.Get("X-Sum"))
	assert.Equal(t, "map[X-Check:[yes]]", res.Trailer.Get("X-Seen"))
}

func TestProxy_oldClientsGetWhatTheyCanRead(t *testing.T) {
	addr := startProxy(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chunked" {
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.WriteString(w, "hello")
	})
	for _, path := range []string{"/chunked", "/length"} {
		conn := dial(t, addr)
		_, err := io.WriteString(conn, "GET "+path+" HTTP/1.0\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		all, err := io.ReadAll(conn)
		require.NoError(t, err)
		head, body, _ := strings.Cut(string(all), "\r\n\r\n")
		assert.Equal(t, "hello", body, path)
		assert.NotContains(t, head, "chunked", path)
	}
}

// TestProxy_anAnswerBeforeTheEndOfTheBody is what an upstream does that refuses an upload.
func TestProxy_anAnswerBeforeTheEndOfTheBody(t *testing.T) {
	url := rawUpstream(t, func(c net.Conn, in *bufio.Reader) {
		if _, err := http.ReadRequest(in); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.CopyN(io.Discard, in, 1<<20)
		}
	})
	addr := start(t, proxyConfig(url), always(decided(t, 9, 1, true)))
	conn := dial(t, addr)
	_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\nhello")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	got := read(t, res)
	assert.Equal(t, 413, got.status)
	assert.Equal(t, "big", got.body)
	assert.True(t, got.close, "what follows is the rest of the body, and no request")
}

// TestProxy_halfABodyIsNoWholeOne: the upstream must see that the client broke off, and the client what was wrong.
func TestProxy_halfABodyIsNoWholeOne(t *testing.T) {
	for name, c := range map[string]struct {
		raw    string
		status int // 0: the client has gone
	}{
		"bad chunk":        {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", 400},
		"silence":          {"Content-Length: 100000\r\n\r\nhello", 408},
		"silence, short":   {"Content-Length: 10\r\n\r\nhello", 408},
		"silence, chunked": {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 408},
		"gone":             {"Content-Length: 100000\r\n\r\nhello", 0},
		"gone, chunked":    {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var asked, whole atomic.Int32
			cfg := proxyConfig(startUpstream(t, func(_ http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if _, err := io.ReadAll(r.Body); err == nil {
					whole.Add(1)
				}
			}))
			cfg.ReadTimeout = 300 * time.Millisecond
			addr := start(t, cfg, always(decided(t, 9, 1, true)))
			conn := dial(t, addr)
			_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\n"+c.raw)
			require.NoError(t, err)
			if c.status == 0 {
				require.Eventually(t, func() bool { return asked.Load() == 1 }, patience, tick)
				require.NoError(t, conn.Close())
			} else {
				assert.Equal(t, c.status, readAnswers(t, conn, 1)[0].status)
			}
			assert.Zero(t, whole.Load())
		})
	}
}

// TestProxy_aSlowAnswerOutlivesTheTimeouts: they bound silence before the header and pieces, not whole bodies.
func TestProxy_aSlowAnswerOutlivesTheTimeouts(t *testing.T) {
	cfg := proxyConfig(startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 5 {
			_, _ = io.WriteString(w, "piece")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(150 * time.Millisecond)
		}
	}))
	cfg.ReadTimeout, cfg.WriteTimeout, cfg.Upstream.Timeout = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
	addr := start(t, cfg, always(decided(t, 9, 1, true)))
	assert.Equal(t, strings.Repeat("piece", 5), call(t, "GET", "http://"+addr+"/", "").body)
}
