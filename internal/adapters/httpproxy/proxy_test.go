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
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestProxy_forwardsAndAnswersWithTheLimits(t *testing.T) {
	addr := startProxy(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-RateLimit-Limit", "upstream's")
		w.Header().Set("ratelimit", "upstream's")
		w.Header().Set("X-Request-Id", "upstream's")
		w.Header().Add("Set-Cookie", "a=1; Path=/x")
		w.Header().Add("Set-Cookie", "a=2; Path=/y")
		w.Header().Set("Connection", "X-Secret")
		w.Header().Set("X-Secret", "hop")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.WriteHeader(http.StatusTeapot)
		_, _ = fmt.Fprintf(w, "%s %s %s %s", r.Method, r.RequestURI, r.Host, body)
	})
	got := call(t, "POST", "http://"+addr+"/a/./b//c%7e?q=%2f../&&x", "hello", "X-Request-Id", "mine")
	assert.Equal(t, http.StatusTeapot, got.status)
	assert.Equal(t, "POST /a/b/c~?q=%2f../&&x "+addr+" hello", got.body)
	assert.Equal(t, []string{"10"}, got.header.Values("X-RateLimit-Limit"))
	assert.Equal(t, []string{"9"}, got.header.Values("X-RateLimit-Remaining"))
	assert.Equal(t, []string{`"burst";r=9;t=1`}, got.header.Values("RateLimit"))
	assert.Equal(t, []string{"mine"}, got.header.Values("X-Request-Id"))
	assert.Equal(t, []string{"a=1; Path=/x", "a=2; Path=/y"}, got.header.Values("Set-Cookie"))
	assert.Empty(t, got.header.Values("X-Secret"))
	assert.Empty(t, got.header.Values("Keep-Alive"))
	assert.Len(t, got.header.Values("Content-Type"), 1)
}

func TestProxy_aDeniedRequestNeverReachesTheUpstream(t *testing.T) {
	var asked atomic.Int32
	url := startUpstream(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	addr := start(t, proxyConfig(url), always(decided(t, 0, 1, false)))
	got := call(t, "GET", "http://"+addr+"/", "")
	assert.Equal(t, 429, got.status)
	got.problem(t)
	assert.Equal(t, "1", got.header.Get("Retry-After"))
	assert.Zero(t, asked.Load())
}

func TestProxy_statusesWithoutBodies(t *testing.T) {
	addr := startProxy(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/same":
			w.Header().Set("ETag", `"x"`)
			w.WriteHeader(http.StatusNotModified)
		case "/empty":
		default:
			w.Header().Set("Content-Length", "1234567")
			if r.Method == http.MethodGet {
				_, _ = io.WriteString(w, strings.Repeat("x", 1234567))
			}
		}
	})
	conn := dial(t, addr)
	in := bufio.NewReader(conn)
	for _, c := range []struct {
		method, path string
		status       int
		length       int64
	}{
		{"GET", "/none", 204, 0},
		{"GET", "/same", 304, 0},
		{"GET", "/empty", 200, 0},
		{"HEAD", "/large", 200, 1234567},
		{"GET", "/large", 200, 1234567},
		{"HEAD", "/empty", 200, 0},
	} {
		_, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n\r\n", c.method, c.path)
		require.NoError(t, err)
		res, err := http.ReadResponse(in, &http.Request{Method: c.method})
		require.NoError(t, err, c.path)
		assert.Equal(t, c.status, res.StatusCode, c.path)
		assert.Equal(t, c.length, max(res.ContentLength, 0), "%s %s", c.method, c.path)
		body := read(t, res).body
		if c.method == "GET" {
			assert.Len(t, body, int(c.length))
		}
	}
}

// An upstream that repeats the request in an answer that is none: the request may have a secret.
func TestProxy_logsNothingOfABrokenAnswer(t *testing.T) {
	for _, broken := range []string{"broken /?api_key=raw-value", "Content-Length: raw-value", "raw-value"} {
		core, logged := observer.New(zapcore.WarnLevel)
		upstream := rawUpstream(t, says("HTTP/1.1 200 OK\r\n"+broken+"\r\n\r\n"))
		_, addr := startServer(t, proxyConfig(upstream), always(decided(t, 9, 1, true)), zap.New(core))
		require.Equal(t, 502, call(t, "GET", "http://"+addr+"/", "").status)
		lines := logged.FilterMessage("The upstream failed").All()
		require.Len(t, lines, 1)
		text := fmt.Sprint(lines[0].ContextMap()["error"])
		assert.Contains(t, text, "HTTP")
		assert.NotContains(t, text, "raw-value")
	}
}

func TestProxy_anOutageOfTheUpstreamFillsNoDisk(t *testing.T) {
	core, logged := observer.New(zapcore.WarnLevel)
	_, addr := startServer(t, proxyConfig(rawUpstream(t, says(""))), always(decided(t, 9, 1, true)), zap.New(core))
	for range 50 {
		require.Equal(t, 502, call(t, "GET", "http://"+addr+"/", "").status)
	}
	lines := logged.FilterMessage("The upstream failed").Len()
	assert.GreaterOrEqual(t, lines, 10)
	assert.Less(t, lines, 50)
}

func TestProxy_badUpstreams(t *testing.T) {
	silent := rawUpstream(t, func(_ net.Conn, in *bufio.Reader) { _, _ = io.Copy(io.Discard, in) })
	for name, c := range map[string]struct {
		url    string
		status int
	}{
		"dead":              {deadURL, 502},
		"silent":            {silent, 504},
		"closes":            {rawUpstream(t, says("")), 502},
		"not HTTP":          {rawUpstream(t, says("SSH-2.0-OpenSSH_9\r\n\r\n")), 502},
		"half a header":     {rawUpstream(t, says("HTTP/1.1 200 OK\r\nContent-")), 502},
		"huge header":       {rawUpstream(t, says("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 20000)+"\r\n\r\n")), 502},
		"two lengths":       {rawUpstream(t, says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")), 502},
		"upgrade unasked":   {rawUpstream(t, says("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")), 502},
		"websocket unasked": {rawUpstream(t, says("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")), 502},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := proxyConfig(c.url)
			if c.status == 504 {
				cfg.Upstream.Timeout = 200 * time.Millisecond
			}
			addr := start(t, cfg, always(decided(t, 9, 1, true)))
			for _, body := range []string{"", "body", strings.Repeat("x", 100_000)} {
				method := "GET"
				if body != "" {
					method = "POST"
				}
				got := call(t, method, "http://"+addr+"/", body)
				assert.Equal(t, c.status, got.status)
				got.problem(t)
				assert.Equal(t, "9", got.header.Get("X-RateLimit-Remaining"), "the token is spent")
				assert.NotContains(t, got.body, "127.0.0.1")
			}
		})
	}
}

func TestProxy_anAnswerThatBreaksOffIsSeenToBeBroken(t *testing.T) {
	for name, raw := range map[string]string{
		"length, after the header": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
		"length, in the body":      "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 50000),
		"chunked, before a chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"chunked, inside of one":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
		"chunked, before the end":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
		"chunked, garbage":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			addr := start(t, proxyConfig(rawUpstream(t, says(raw))), always(decided(t, 9, 1, true)))
			conn := dial(t, addr)
			_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			require.NoError(t, err)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return // broken before the header, which is as good
			}
			_, err = io.ReadAll(res.Body)
			assert.Error(t, err)
		})
	}
}
