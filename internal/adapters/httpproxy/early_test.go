package httpproxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/httpproxy"
)

// startH2C serves HTTP/2 without TLS, and returns the URL of an upstream.
func startH2C(t *testing.T, handler http.HandlerFunc) string {
	s := httptest.NewUnstartedServer(handler)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s.Config.Protocols = &protocols
	s.Start()
	t.Cleanup(s.Close)
	return "h2c" + strings.TrimPrefix(s.URL, "http")
}

// TestProxy_answersToHalfAnUpload: an answer that comes before the end of an upload is whole, or seen to be broken, and the
// connection does not wait for the rest.
func TestProxy_answersToHalfAnUpload(t *testing.T) {
	h2 := startH2C(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/reset" {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_, _ = io.WriteString(w, "first ")
		_ = http.NewResponseController(w).Flush()
		time.Sleep(100 * time.Millisecond)
		_, _ = io.WriteString(w, "second")
	})
	for name, c := range map[string]struct{ upstream, path, want string }{
		"reset by HTTP/2":  {h2, "/reset", "502 application/problem+json true"},
		"early by HTTP/2":  {h2, "/early", "413 first second true"},
		"early, by length": {rawUpstream(t, says("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")), "/", "413 no true"},
		"broken off":       {rawUpstream(t, says("HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nno")), "/", "200 no false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := start(t, proxyConfig(c.upstream), always(decided(t, 9, 1, true)))
			for range 4 {
				conn := dial(t, addr)
				_, err := io.WriteString(conn, "POST "+c.path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
				require.NoError(t, err)
				in := bufio.NewReader(conn)
				res, err := http.ReadResponse(in, nil)
				require.NoError(t, err)
				body, err := io.ReadAll(res.Body)
				if res.StatusCode == http.StatusBadGateway {
					body = []byte(res.Header.Get("Content-Type"))
				}
				assert.Equal(t, c.want, fmt.Sprint(res.StatusCode, " ", string(body), " ", err == nil))
				_, err = io.Copy(io.Discard, in)
				assert.NoError(t, err, "the connection ends")
			}
		})
	}
}

// TestShutdown_doesNotWaitForTheRestOfAnUpload that was answered.
func TestShutdown_doesNotWaitForTheRestOfAnUpload(t *testing.T) {
	cfg := proxyConfig(rawUpstream(t, says("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")))
	p := startPlane(t, cfg, always(decided(t, 9, 1, true)), httpproxy.API{})
	conn := dial(t, p.addr)
	_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
	require.NoError(t, err)
	_, err = http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, p.Shutdown(ctx))
}

// TestProxy_afterALateBodyTheConnectionEnds: net/http has given it up, so that what follows would be paid for and dropped.
func TestProxy_afterALateBodyTheConnectionEnds(t *testing.T) {
	cfg := proxyConfig(startUpstream(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	cfg.ReadTimeout = 100 * time.Millisecond
	addr := start(t, cfg, always(decided(t, 9, 1, true)))
	conn := dial(t, addr)
	_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	assert.Equal(t, http.StatusRequestTimeout, res.StatusCode)
	assert.True(t, res.Close)
}

// TestProxy_trailersThatWereNotAnnounced obey the same rules as others.
func TestProxy_trailersThatWereNotAnnounced(t *testing.T) {
	trailer := "X-Good: 1\r\nX-Ratelimit-Limit: 99\r\nX-Request-Id: theirs\r\nX-A: 2\r\nX_Under: 3\r\n"
	for name, announced := range map[string]string{"none": "", "some": "Trailer: X-Ratelimit-Limit, X-Good\r\n"} {
		t.Run(name, func(t *testing.T) {
			url := rawUpstream(t, says("HTTP/1.1 200 OK\r\nX-A: 1\r\n"+announced+"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"+trailer+"\r\n"))
			conn := dial(t, start(t, proxyConfig(url), always(decided(t, 9, 1, true))))
			_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
			require.NoError(t, err)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			_, err = io.ReadAll(res.Body)
			require.NoError(t, err)
			delete(res.Trailer, "Date") // an empty field that no one announced
			assert.Equal(t, http.Header{"X-Good": {"1"}}, res.Trailer)
		})
	}
}
