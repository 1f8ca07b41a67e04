package httpproxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/httpproxy"
)

// TestProxy_forwardsWhatWasMatched, the query as it came, and answers with the limits.
func TestProxy_forwardsWhatWasMatched(t *testing.T) {
	p := planeFor(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-RateLimit-Limit", "upstream's")
		w.Header().Set("X-Request-Id", "upstream's")
		_, _ = fmt.Fprint(w, r.RequestURI, " ", r.Host, " ", r.Header.Get("User-Agent"), " ", r.Header.Get("X-Request-Id"))
	})
	got := exchange(t, p.addr, "GET /a/./b//c%7e!(x)?q=%2f;../&&%zz HTTP/1.1\r\nHost: x:81\r\nX-Request-Id: mine\r\n\r\n", 1)[0]
	assert.Equal(t, 200, got.status)
	assert.Equal(t, "/a/b/c~!(x)?q=%2f;../&&%zz x:81  mine", got.body)
	assert.Equal(t, []string{"10"}, got.header.Values("X-RateLimit-Limit"))
	assert.Equal(t, []string{`"burst";r=9;t=1`}, got.header.Values("RateLimit"))
	assert.Equal(t, []string{"mine"}, got.header.Values("X-Request-Id"))
}

// TestProxy_aRequestIsSentOnce: the upstream closes a kept connection as soon as it has the next request.
func TestProxy_aRequestIsSentOnce(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "DELETE", "POST"} {
		t.Run(method, func(t *testing.T) {
			var asked atomic.Int32
			upstream := rawUpstream(t, func(c net.Conn, in *bufio.Reader) {
				if _, err := http.ReadRequest(in); err != nil {
					return
				}
				asked.Add(1)
				_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
				if _, err := http.ReadRequest(in); err == nil {
					asked.Add(1)
				}
			})
			p := startPlane(t, proxyConfig(upstream), always(decided(t, 9, 1, true)), httpproxy.API{})
			raw := method + " / HTTP/1.1\r\nHost: x\r\nIdempotency-Key: a\r\nContent-Length: 0\r\n\r\n"
			assert.Equal(t, 204, exchange(t, p.addr, raw, 1)[0].status)
			assert.Equal(t, int32(1), asked.Load())
			conn := dial(t, p.addr)
			_, err := io.WriteString(conn, raw)
			require.NoError(t, err)
			res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
			require.NoError(t, err)
			assert.Equal(t, 502, res.StatusCode)
			assert.Equal(t, int32(2), asked.Load(), "of two requests")
		})
	}
}

// TestProxy_bodiesAreFramedAsTheyCame: no length is invented for a GET, and a POST without a body says so.
func TestProxy_bodiesAreFramedAsTheyCame(t *testing.T) {
	heads := make(chan string, 1)
	upstream := rawUpstream(t, func(c net.Conn, in *bufio.Reader) {
		var head strings.Builder
		for {
			line, err := in.ReadString('\n')
			if err != nil || line == "\r\n" {
				break
			}
			head.WriteString(line)
		}
		heads <- head.String()
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		_, _ = io.Copy(io.Discard, in) // to close with something unread would reset the connection, and the answer could be lost
	})
	p := startPlane(t, proxyConfig(upstream), always(decided(t, 9, 1, true)), httpproxy.API{})
	for raw, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":                                                   "",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n":                             "Content-Length: 0",
		"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na":                             "Content-Length: 1",
		"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":            "Transfer-Encoding: chunked",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n": "Transfer-Encoding: chunked",
	} {
		assert.Equal(t, 204, exchange(t, p.addr, raw, 1)[0].status)
		var framing []string
		for line := range strings.SplitSeq(<-heads, "\r\n") {
			if strings.HasPrefix(line, "Content-Length") || strings.HasPrefix(line, "Transfer-Encoding") {
				framing = append(framing, line)
			}
		}
		assert.Equal(t, want, strings.Join(framing, ", "), raw)
	}
}

// TestProxy_theRestOfABodyIsNoRequest: a client that is denied, or gets an early answer, is not read as one that asks again.
func TestProxy_theRestOfABodyIsNoRequest(t *testing.T) {
	const hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
	var asked atomic.Int32
	upstream := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer upstream.Close()
	p := startPlane(t, proxyConfig(upstream.URL), always(decided(t, 0, 1, false)), httpproxy.API{})
	for name, c := range map[string]struct {
		framing string
		kept    bool
	}{
		"small":         {fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(hidden), hidden), true},
		"late":          {fmt.Sprintf("Content-Length: %d\r\n\r\n", 1000), false},
		"large":         {fmt.Sprintf("Content-Length: %d\r\n\r\n%s", 100_000, hidden), false},
		"chunked":       {"Transfer-Encoding: chunked\r\n\r\n" + hidden, false},
		"not asked for": {"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n" + hidden, false},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, p.addr)
			begun := time.Now()
			_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\n"+c.framing)
			require.NoError(t, err)
			in := bufio.NewReader(conn)
			res, err := http.ReadResponse(in, nil)
			require.NoError(t, err)
			assert.Equal(t, 429, res.StatusCode)
			assert.Less(t, time.Since(begun), 5*time.Second, "at once")
			_, err = io.Copy(io.Discard, res.Body)
			require.NoError(t, err)
			if !c.kept {
				rest, _ := io.ReadAll(in)
				assert.Empty(t, string(rest))
				return
			}
			_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			require.NoError(t, err)
			res, err = http.ReadResponse(in, nil)
			require.NoError(t, err)
			assert.Equal(t, 429, res.StatusCode)
		})
	}
	assert.Zero(t, asked.Load())
}

func TestProxy_waitsForAConnectionInTime(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		close(entered)
		<-leave
	}))
	defer upstream.Close()
	cfg := proxyConfig(upstream.URL)
	cfg.Upstream.MaxConns, cfg.Upstream.Timeout = 1, 200*time.Millisecond
	p := startPlane(t, cfg, always(decided(t, 9, 1, true)), httpproxy.API{})
	first := make(chan int, 1)
	go func() {
		res, err := http.Get("http://" + p.addr)
		if err == nil {
			_, _ = io.Copy(io.Discard, res.Body) // until the upstream ends it
			first <- res.StatusCode
			_ = res.Body.Close()
		}
	}()
	<-entered
	assert.Equal(t, 504, exchange(t, p.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1)[0].status)
	close(leave)
	assert.Equal(t, 200, <-first)
}

// TestProxy_anUpstreamThatReadsNoFurther: while it answers, it may leave an upload unread for any time; if it does not, its time
// ends.
func TestProxy_anUpstreamThatReadsNoFurther(t *testing.T) {
	const timeout = 300 * time.Millisecond
	const upload = 32 << 20 // more than fits between the two
	over := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		if r.URL.Path == "/silent" {
			<-over
			return
		}
		_ = control.Flush()
		time.Sleep(4 * timeout)
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n)
	}))
	defer upstream.Close()
	defer close(over)
	cfg := proxyConfig(upstream.URL)
	cfg.Upstream.Timeout = timeout
	p := startPlane(t, cfg, always(decided(t, 9, 1, true)), httpproxy.API{})
	for path, want := range map[string]string{"/answers": "200 33554432", "/silent": "504"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.addr, bytes.NewReader(make([]byte, upload)))
		require.NoError(t, err)
		req.URL.Path = path
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err, path)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err, path)
		require.NoError(t, res.Body.Close())
		if res.StatusCode != http.StatusOK {
			body = nil
		}
		assert.Equal(t, want, strings.TrimSpace(fmt.Sprintf("%d %s", res.StatusCode, body)), path)
	}
}

// TestProxy_silenceIsNoFailure: the timeouts are for the upstream's header and for pieces, not for the silence between them.
func TestProxy_silenceIsNoFailure(t *testing.T) {
	const silence = 500 * time.Millisecond
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		_ = control.Flush()
		time.Sleep(silence)
		body, err := io.ReadAll(r.Body)
		time.Sleep(silence)
		_, _ = fmt.Fprint(w, len(body), err)
	}))
	defer upstream.Close()
	cfg := proxyConfig(upstream.URL)
	cfg.ReadTimeout, cfg.WriteTimeout, cfg.Upstream.Timeout = silence/3, silence/3, silence/3
	p := startPlane(t, cfg, always(decided(t, 9, 1, true)), httpproxy.API{})
	conn := dial(t, p.addr)
	_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	time.Sleep(silence)
	_, err = io.WriteString(conn, "5\r\nhello\r\n0\r\n\r\n")
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	assert.Equal(t, "5 <nil>", string(body))
}

func TestShutdown_drainsFinishesAndEndsWebSockets(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	p := planeFor(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/slow" {
			if c, err := websocket.Accept(w, r, nil); err == nil {
				_, _, _ = c.Read(r.Context())
			}
			return
		}
		close(entered)
		<-leave
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	socket, _, err := websocket.Dial(ctx, "ws://"+p.addr, nil)
	require.NoError(t, err)
	silent := dial(t, p.addr)
	slow := dial(t, p.addr)
	_, err = io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	<-entered

	stopped := make(chan error, 1)
	begun := time.Now()
	go func() { stopped <- p.Shutdown(ctx) }()
	_, _, err = socket.Read(ctx)
	require.Error(t, err)
	require.NoError(t, ctx.Err(), "it was ended")
	_, err = silent.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err, "a connection without a request is not waited for")
	assert.Less(t, time.Since(begun), 4*time.Second)
	close(leave)
	res, err := http.ReadResponse(bufio.NewReader(slow), nil)
	require.NoError(t, err)
	assert.Equal(t, 200, res.StatusCode)
	assert.True(t, res.Close)
	require.NoError(t, <-stopped)
	require.NoError(t, <-p.served)
}

// TestAPI_answersAtItsPathsAlone, once the token is right, with a bounded body.
func TestAPI_answersAtItsPathsAlone(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "upstream") }))
	defer upstream.Close()
	cfg := proxyConfig(upstream.URL)
	cfg.APIToken = "0123456789abcdef"
	api := httpproxy.API{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }),
		MaxBody: map[string]int{"/v1/check": 10},
	}
	p := startPlane(t, cfg, always(decided(t, 9, 1, true)), api)
	const token = "Authorization: Bearer 0123456789abcdef\r\n"
	for raw, want := range map[string]answer{
		"POST /v1/check HTTP/1.1\r\nHost: x\r\n" + token + "Content-Length: 2\r\n\r\nhi":                             {status: 200, body: "hi"},
		"POST /v1//%63heck HTTP/1.1\r\nHost: x\r\n" + token + "Content-Length: 2\r\n\r\nhi":                          {status: 200, body: "hi"},
		"POST /v1/check HTTP/1.1\r\nHost: x\r\n" + token + "Content-Length: 11\r\n\r\nhello world":                   {status: 413},
		"POST /v1/check HTTP/1.1\r\nHost: x\r\n" + token + "Transfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0": {status: 413},
		"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi":                                          {status: 401},
		"POST /v1/check HTTP/1.1\r\nHost: x\r\n" + token + token + "Content-Length: 2\r\n\r\nhi":                     {status: 401},
		"POST /v1/check/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi":                                         {status: 200, body: "upstream"},
		"GET /api/resource HTTP/1.1\r\nHost: x\r\n\r\n":                                                              {status: 200, body: "upstream"},
	} {
		got := exchange(t, p.addr, raw, 1)[0]
		assert.Equal(t, want.status, got.status, raw)
		if want.body != "" {
			assert.Equal(t, want.body, got.body, raw)
		}
	}
}
