package admin_test

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

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
)

// serve serves until the test ends.
func serve(t testing.TB, s *admin.Server, ln net.Listener) {
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

// answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	body   string
}

// problem decodes the body, which must be a problem that agrees with the status line.
func (a answer) problem(t testing.TB) map[string]any {
	t.Helper()
	require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), a.body)
	var p map[string]any
	require.NoError(t, json.Unmarshal([]byte(a.body), &p), a.body)
	assert.InDelta(t, a.status, p["status"], 0)
	assert.Equal(t, a.header.Get("X-Request-Id"), p["request_id"])
	for _, member := range []string{"type", "title", "detail", "instance", "request_id"} {
		assert.NotEmpty(t, p[member], member)
	}
	return p
}

// call sends one request by Go's own client. headers are pairs.
func call(t testing.TB, method, url, body string, headers ...string) answer {
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
	return read(t, res)
}

func read(t testing.TB, res *http.Response) answer {
	t.Helper()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return answer{res.StatusCode, res.Header, string(text)}
}

// exchange writes a raw request to a connection of its own and reads the answer.
func exchange(t testing.TB, addr, raw string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(conn, raw)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	return read(t, res)
}
