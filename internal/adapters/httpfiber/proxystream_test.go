package httpfiber_test

import (
	"bufio"
	"crypto/sha256"
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

const (
	patience = 20 * time.Second
	tick     = 5 * time.Millisecond
)

// TestProxy_answersArriveAsTheyAreWritten: each piece is read before the next is written.
func TestProxy_answersArriveAsTheyAreWritten(t *testing.T) {
	for name, length := range map[string]string{"chunked, as events are": "", "of known length": "12"} {
		t.Run(name, func(t *testing.T) {
			next := make(chan struct{})
			addr := startProxy(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				w.WriteHeader(http.StatusOK)
				flush := http.NewResponseController(w).Flush
				_ = flush() // the header alone
				for i := range 3 {
					<-next
					_, _ = fmt.Fprintf(w, "%d..\n", i)
					_ = flush()
				}
			})
			conn := dial(t, addr)
			_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			require.NoError(t, err)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			assert.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
			assert.Equal(t, "9", res.Header.Get("X-RateLimit-Remaining"))
			piece := make([]byte, 4)
			for i := range 3 {
				next <- struct{}{}
				_, err := io.ReadFull(res.Body, piece)
				require.NoError(t, err)
				assert.Equal(t, fmt.Sprintf("%d..\n", i), string(piece))
			}
			_, err = res.Body.Read(piece)
			assert.Equal(t, io.EOF, err)
		})
	}
}

// TestProxy_bothDirectionsAtOnce: the upstream answers each piece of the request before the next is sent.
func TestProxy_bothDirectionsAtOnce(t *testing.T) {
	addr := startProxy(t, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_ = control.Flush()
		buf := make([]byte, 16)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = control.Flush()
			if err != nil {
				return
			}
		}
	})
	conn := dial(t, addr)
	_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n!\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	buf := make([]byte, 1)
	for _, c := range "!abc" {
		if c != '!' {
			_, err := fmt.Fprintf(conn, "1\r\n%c\r\n", c)
			require.NoError(t, err)
		}
		_, err = io.ReadFull(res.Body, buf)
		require.NoError(t, err)
		assert.Equal(t, string(c), string(buf))
	}
	_, err = io.WriteString(conn, "0\r\n\r\n")
	require.NoError(t, err)
	rest, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	assert.Empty(t, string(rest))
}

// TestProxy_largeBodiesPassWhole: sums agree in both directions, whatever frames the body.
func TestProxy_largeBodiesPassWhole(t *testing.T) {
	const size = 5<<20 + 7
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	addr := startProxy(t, func(w http.ResponseWriter, r *http.Request) {
		got := sha256.New()
		_, err := io.Copy(got, r.Body)
		w.Header().Set("X-Sum", fmt.Sprintf("%x %v %d", got.Sum(nil), err, r.ContentLength))
		if r.ContentLength >= 0 {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		_, _ = w.Write(content)
	})
	for _, length := range []int64{size, -1} {
		req, err := http.NewRequestWithContext(t.Context(), "PUT", "http://"+addr+"/", strings.NewReader(string(content)))
		require.NoError(t, err)
		req.ContentLength = length
		res, err := http.DefaultTransport.RoundTrip(req)
		require.NoError(t, err)
		sum := sha256.New()
		n, err := io.Copy(sum, res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		assert.Equal(t, int64(size), n)
		assert.Equal(t, fmt.Sprintf("%x <nil> %d", sum.Sum(nil), length), res.Header.Get("X-Sum"))
	}
}

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

func TestProxy_expectationsAreMet(t *testing.T) {
	addr := startProxy(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%d %v %q", len(body), err, r.Header.Get("Expect"))
	})
	const size = 100_000 // more than any route of ours takes
	conn := dial(t, addr)
	_, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", size)
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.Equal(t, 100, res.StatusCode)
	_, err = io.WriteString(conn, strings.Repeat("x", size))
	require.NoError(t, err)
	res, err = http.ReadResponse(in, nil)
	require.NoError(t, err)
	assert.Equal(t, `100000 <nil> ""`, read(t, res).body)
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

// TestProxy_aSlowUploadOutlivesTheTimeouts: each piece has the time to arrive, not the whole body.
func TestProxy_aSlowUploadOutlivesTheTimeouts(t *testing.T) {
	cfg := proxyConfig(startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%d %v", len(body), err)
	}))
	cfg.ReadTimeout, cfg.Upstream.Timeout = 500*time.Millisecond, 500*time.Millisecond
	addr := start(t, cfg, always(decided(t, 9, 1, true)))
	conn := dial(t, addr)
	const pieces, size = 5, 10_000
	_, err := fmt.Fprintf(conn, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", pieces*size)
	require.NoError(t, err)
	for range pieces {
		_, err := io.WriteString(conn, strings.Repeat("x", size))
		require.NoError(t, err)
		time.Sleep(200 * time.Millisecond)
	}
	assert.Equal(t, "50000 <nil>", readAnswers(t, conn, 1)[0].body)
}
