package webtest

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Response is a response that has been read.
type Response struct {
	Status int
	Header http.Header
	Body   string
	Close  bool // the server said Connection: close
}

// Problem decodes the body, which must be a problem that agrees with the status line.
func (r Response) Problem(t testing.TB) map[string]any {
	t.Helper()
	require.Equal(t, "application/problem+json", r.Header.Get("Content-Type"), r.Body)
	var p map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.Body), &p), r.Body)
	assert.InDelta(t, r.Status, p["status"], 0)
	assert.Equal(t, r.Header.Get("X-Request-Id"), p["request_id"])
	for _, member := range []string{"type", "title", "detail", "instance", "request_id"} {
		assert.NotEmpty(t, p[member], member)
	}
	return p
}

// Call sends one request by Go's own client. headers are pairs.
func Call(t testing.TB, method, url, body string, headers ...string) Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // lest a server that does not answer end all tests
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	return Read(t, res)
}

// Read reads and closes the body of a response.
func Read(t testing.TB, res *http.Response) Response {
	t.Helper()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return Response{res.StatusCode, res.Header, string(text), res.Close}
}

// Exchange writes raw bytes to a connection of its own, and reads so many responses, none of them to a HEAD.
func Exchange(t testing.TB, addr, raw string, responses int) []Response {
	t.Helper()
	conn := Dial(t, addr)
	_, err := io.WriteString(conn, raw)
	require.NoError(t, err)
	return ReadAll(t, conn, responses)
}

// Dial connects. The connection is closed when the test ends, and fails after 10 s.
func Dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	return conn
}

// ReadAll reads n responses, none of them to a HEAD.
func ReadAll(t testing.TB, conn net.Conn, n int) []Response {
	t.Helper()
	in := bufio.NewReader(conn)
	got := make([]Response, n)
	for i := range got {
		res, err := http.ReadResponse(in, nil)
		require.NoError(t, err, "response %d", i)
		got[i] = Read(t, res)
	}
	return got
}

// Server is what [Serve] serves.
type Server interface {
	Serve(ln net.Listener) error
	Shutdown(ctx context.Context) error
}

// Serve serves until the test ends.
func Serve(t testing.TB, s Server, ln net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		assert.NoError(t, s.Shutdown(ctx))
		assert.NoError(t, <-served)
	})
}
