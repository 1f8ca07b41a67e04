package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// ours are the fields that the proxy adds to an answer.
var ours = []string{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "Ratelimit", "Ratelimit-Policy", "X-Request-Id"}

// says serves a connection: each request is read whole, and answered with the text that byPath has for its path.
func says(byPath map[string]string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, in *bufio.Reader) {
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			answer, found := byPath[r.URL.Path]
			if _, err := io.WriteString(c, answer); err != nil || !found || strings.Contains(answer, "Connection: close") {
				return
			}
		}
	}
}

const date = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"

// answers are what upstreams say, by path. Each has a date, which a proxy would otherwise have to add.
var answers = map[string]string{
	"/no-type":      "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 6\r\n\r\n<html>",
	"/empty":        "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 0\r\n\r\n",
	"/created":      "HTTP/1.1 201 Created\r\n" + date + "Location: /x\r\nContent-Length: 0\r\n\r\n",
	"/none":         "HTTP/1.1 204 No Content\r\n" + date + "ETag: \"a\"\r\n\r\n",
	"/reset":        "HTTP/1.1 205 Reset Content\r\n" + date + "Content-Length: 0\r\n\r\n",
	"/partial":      "HTTP/1.1 206 Partial Content\r\n" + date + "Content-Range: bytes 0-1/5\r\nContent-Length: 2\r\n\r\nhe",
	"/moved":        "HTTP/1.1 301 Moved Permanently\r\n" + date + "Location: http://a/%2f?b=%zz\r\nContent-Length: 0\r\n\r\n",
	"/same":         "HTTP/1.1 304 Not Modified\r\n" + date + "ETag: \"x\"\r\n\r\n",
	"/same-typed":   "HTTP/1.1 304 Not Modified\r\n" + date + "ETag: \"x\"\r\nCache-Control: no-cache\r\nVary: Accept\r\n\r\n",
	"/missing":      "HTTP/1.1 404 Not Found\r\n" + date + "Content-Type: a/b\r\nContent-Length: 4\r\n\r\nnone",
	"/own-429":      "HTTP/1.1 429 Too Many Requests\r\n" + date + "Retry-After: 7\r\nContent-Length: 0\r\n\r\n",
	"/unknown":      "HTTP/1.1 299 Whatever\r\n" + date + "Content-Length: 0\r\n\r\n",
	"/error":        "HTTP/1.1 599 Whatever\r\n" + date + "Content-Length: 4\r\n\r\noops",
	"/gzip":         "HTTP/1.1 200 OK\r\n" + date + "Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
	"/chunked":      "HTTP/1.1 200 OK\r\n" + date + "Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
	"/trailer":      "HTTP/1.1 200 OK\r\n" + date + "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\nX-Sum: 1\r\n\r\n",
	"/late-trailer": "HTTP/1.1 200 OK\r\n" + date + "Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\nX-Sum: 1\r\n\r\n",
	"/to-the-end":   "HTTP/1.0 200 OK\r\n" + date + "Connection: close\r\n\r\nall of it",
	"/odd-fields": "HTTP/1.1 200 OK\r\n" + date + "Set-Cookie: a=1; Path=/x\r\nset-cookie: b=\"2\"\r\nX-Empty:\r\nX-Bytes: caf\xe9\r\n" +
		"X-Spaces:   a  b  \r\nServer: \"me\"\r\nVia: 1.1 me\r\nContent-Length: 0\r\n\r\n",
	"/our-names": "HTTP/1.1 200 OK\r\n" + date + "X-Request-Id: theirs\r\nX-RateLimit-Limit: 1\r\nRateLimit: theirs\r\nContent-Length: 0\r\n\r\n",
	"/large":     "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 300000\r\n\r\n" + strings.Repeat("x", 300_000),
}

// What the client gets by each protocol is the upstream's own answer, field by field, and our headers.
func TestAnswers_nothingIsAddedButOurHeaders(t *testing.T) {
	t.Parallel()
	upstream := rawUpstream(t, says(answers))
	direct := &http.Client{Transport: &http.Transport{DisableCompression: true}, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	eachClient(t, func(t *testing.T, client protocol) {
		s := start(t, client, upstream)
		for path := range answers {
			wanted, err := direct.Get(upstream["VELOCITY_UPSTREAM_URL"] + path)
			require.NoError(t, err, path)
			body := text(t, wanted)
			got := s.do(t, http.MethodGet, path, nil)
			if gotBody := text(t, got); body != gotBody { // it may be too long to print
				assert.Fail(t, "another body", "%s: %d bytes", path, len(gotBody))
			}
			assert.Equal(t, wanted.StatusCode, got.StatusCode, path)
			assert.Equal(t, wanted.Trailer, got.Trailer, path)
			for _, name := range ours {
				assert.Len(t, got.Header[name], 1, "%s: %s", path, name)
				delete(got.Header, name)
				delete(wanted.Header, name)
			}
			delete(wanted.Header, "Connection") // speaks of the connection to the upstream
			if client.http2 {
				delete(got.Header, "Trailer") // HTTP/2 may announce them, or not
				delete(wanted.Header, "Trailer")
			}
			assert.Equal(t, wanted.Header, got.Header, path)
			if wanted.ContentLength >= 0 && wanted.StatusCode != http.StatusNoContent {
				assert.Equal(t, wanted.ContentLength, got.ContentLength, path)
			}
		}
	})
}

// The answer to HEAD is that to GET without the body.
func TestAnswers_toHEADHaveTheLengthAndNoMore(t *testing.T) {
	t.Parallel()
	upstream := rawUpstream(t, func(c net.Conn, in *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+date+"Content-Length: 1234567\r\n\r\n")
		}
	})
	eachClient(t, func(t *testing.T, client protocol) {
		s := start(t, client, upstream)
		for range 2 {
			got := s.do(t, http.MethodHead, "/", nil)
			assert.EqualValues(t, 1234567, got.ContentLength)
			for _, name := range ours {
				delete(got.Header, name)
			}
			assert.Equal(t, http.Header{"Date": {"Thu, 01 Jan 1970 00:00:00 GMT"}, "Content-Length": {"1234567"}}, got.Header)
			assert.Empty(t, text(t, got))
		}
	})
}

// The bytes of an answer in HTTP/1.1, but for the order of fields, are the upstream's.
func TestAnswers_byteByByte(t *testing.T) {
	t.Parallel()
	s := start(t, protocols[0], rawUpstream(t, says(answers)))
	for _, path := range []string{"/none", "/reset", "/same", "/same-typed", "/no-type", "/moved", "/gzip"} {
		conn := s.dial(t)
		_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		require.NoError(t, err)
		in := bufio.NewReader(conn)
		head, body, _ := strings.Cut(answers[path], "\r\n\r\n")
		assert.Equal(t, canonical(strings.Split(head, "\r\n")), readHead(t, in), path)
		rest := make([]byte, len(body))
		_, err = io.ReadFull(in, rest)
		require.NoError(t, err)
		assert.Equal(t, body, string(rest), path)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		more, _ := in.Peek(1)
		assert.Empty(t, more, "%s: more than the answer", path)
	}
}

// canonical sorts header lines below the status line, and spells names alike.
func canonical(lines []string) []string {
	for i, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		lines[i+1] = textproto.CanonicalMIMEHeaderKey(name) + ":" + value
	}
	slices.Sort(lines[1:])
	return lines
}

// readHead reads a status line and the fields below it that are not ours.
func readHead(t *testing.T, in *bufio.Reader) []string {
	t.Helper()
	var lines []string
	for {
		line := readLine(t, in)
		if line == "" {
			return canonical(lines)
		}
		if name, _, _ := strings.Cut(line, ":"); !slices.Contains(ours, textproto.CanonicalMIMEHeaderKey(name)) {
			lines = append(lines, line)
		}
	}
}

func TestAnswers_earlyHintsPass(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, client, upstream protocol) {
		hinted := make(chan struct{})
		s := start(t, client, upstream.upstreamSettings(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			<-hinted
			w.Header().Del("Link")
			_, _ = io.WriteString(w, "done")
		}))
		var hints []http.Header
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
				assert.Equal(t, http.StatusEarlyHints, status)
				hints = append(hints, http.Header(header))
				close(hinted)
				return nil
			},
		}), http.MethodGet, s.URL+"/", nil)
		require.NoError(t, err)
		time.AfterFunc(harness.Timeout, func() {
			select {
			case <-hinted:
			default:
				close(hinted) // lest the test waits for ever
			}
		})
		res, err := s.client.Do(req)
		require.NoError(t, err)
		assert.Equal(t, "done", text(t, res))
		require.Len(t, hints, 1)
		assert.Equal(t, "</style.css>; rel=preload", hints[0].Get("Link"))
		assert.Empty(t, res.Header.Get("Link"))
	})
}

// What goes wrong at the upstream is a 502 or 504 that says nothing of its address, and the connection to the client lives.
func TestAnswers_aBadUpstreamIsAProblem(t *testing.T) {
	t.Parallel()
	const closed = "http://127.0.0.1:1" // no port that a server of the tests may get
	silent := rawUpstream(t, func(_ net.Conn, in *bufio.Reader) { _, _ = io.Copy(io.Discard, in) })
	for name, c := range map[string]struct {
		upstream harness.Settings
		status   int
	}{
		"dead":   {harness.Settings{"VELOCITY_UPSTREAM_URL": closed}, http.StatusBadGateway},
		"silent": {silent, http.StatusGatewayTimeout},
	} {
		eachClient(t, func(t *testing.T, client protocol) {
			s := start(t, client, c.upstream, harness.Settings{"VELOCITY_UPSTREAM_TIMEOUT": "300ms"})
			for _, body := range []string{"", strings.Repeat("x", 100_000)} {
				got := s.do(t, http.MethodPost, "/", strings.NewReader(body))
				assert.Equal(t, c.status, got.StatusCode, name)
				assert.Equal(t, "application/problem+json", got.Header.Get("Content-Type"), name)
				assert.NotEmpty(t, got.Header.Get("X-RateLimit-Remaining"), name)
				assert.NotContains(t, text(t, got), "127.0.0.1", name)
			}
		})
	}
}
