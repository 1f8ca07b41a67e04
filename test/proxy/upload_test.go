package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
)

// none is a limit that the first request of a test reaches.
var none = harness.Settings{"VELOCITY_CAPACITY": "1", "VELOCITY_RATE": "1/h"}

// unread is a body that must not be read.
type unread struct {
	read *atomic.Int64 // bytes
}

func (b unread) Read(p []byte) (int, error) {
	b.read.Add(int64(len(p)))
	return len(p), nil
}

// A denied request that asks before it sends its body gets the denial, no 100, and its body is not read.
func TestUploads_deniedBeforeTheyAreSent(t *testing.T) {
	t.Parallel()
	eachClient(t, func(t *testing.T, client protocol) {
		var asked atomic.Int32
		s := start(t, client, protocols[0].upstreamSettings(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) }), none)
		assert.Equal(t, http.StatusOK, s.do(t, http.MethodGet, "/", nil).StatusCode)
		body := unread{new(atomic.Int64)}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL+"/", body)
		require.NoError(t, err)
		req.Header.Set("Expect", "100-continue")
		req.ContentLength = 100 << 20
		began := time.Now()
		res, err := s.client.Do(req)
		require.NoError(t, err)
		assert.Equal(t, http.StatusTooManyRequests, res.StatusCode)
		assert.Equal(t, "application/problem+json", res.Header.Get("Content-Type"))
		assert.Less(t, time.Since(began), harness.Timeout/2, "that is: not only when the client waits no longer")
		assert.Zero(t, body.read.Load(), "bytes sent")
		assert.EqualValues(t, 1, asked.Load())
	})
}

// The same on the wire: the first line is the denial's, and the connection ends soon, whatever the client goes on to send.
func TestUploads_deniedOnesAreNotRead(t *testing.T) {
	t.Parallel()
	s := start(t, protocols[0], protocols[0].upstreamSettings(t, func(http.ResponseWriter, *http.Request) {}), none)
	assert.Equal(t, http.StatusOK, s.do(t, http.MethodGet, "/", nil).StatusCode)
	for name, lines := range map[string]string{
		"asked, with a length": "Expect: 100-continue\r\nContent-Length: 104857600\r\n",
		"asked, chunked":       "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n",
		"asked, in capitals":   "Expect: 100-Continue\r\nContent-Length: 104857600\r\n",
		"not asked":            "Content-Length: 104857600\r\n",
		"not asked, chunked":   "Transfer-Encoding: chunked\r\n",
	} {
		conn := s.dial(t)
		_, err := io.WriteString(conn, "PUT / HTTP/1.1\r\nHost: x\r\n"+lines+"\r\n")
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(harness.Timeout)))
		in := bufio.NewReader(conn)
		assert.Equal(t, "HTTP/1.1 429 Too Many Requests", readLine(t, in), name)
		piece := strings.Repeat("x", 32<<10)
		if strings.Contains(lines, "chunked") {
			piece = "8000\r\n" + piece + "\r\n"
		}
		sent := 0
		require.NoError(t, conn.SetWriteDeadline(time.Now().Add(harness.Timeout)))
		for sent < 100<<20 {
			n, err := io.WriteString(conn, piece)
			sent += n
			if err != nil {
				break
			}
		}
		assert.Less(t, sent, 16<<20, "%s: more than what the kernel buffers", name)
	}
}

// A request that passes is asked for its body, once, after the decision.
func TestUploads_areAskedForOnceTheyPass(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, client, upstream protocol) {
		s := start(t, client, upstream.upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprint(w, n, err)
		}))
		res := s.do(t, http.MethodPut, "/", strings.NewReader(strings.Repeat("x", 100_000)), "Expect", "100-continue")
		assert.Equal(t, "100000 <nil>", text(t, res))
	})
	s := start(t, protocols[0], protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}))
	conn := s.dial(t)
	_, err := io.WriteString(conn, "PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	assert.Equal(t, "HTTP/1.1 100 Continue", readLine(t, in))
	assert.Empty(t, readLine(t, in))
	_, err = io.WriteString(conn, "hello")
	require.NoError(t, err)
	res, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	assert.Equal(t, http.StatusOK, res.StatusCode)
	assert.Equal(t, "hello", text(t, res))
}

// Each piece of a body has the time to arrive, not the whole body; a client that is silent for longer is cut off.
func TestUploads_maySlowlyArrive(t *testing.T) {
	t.Parallel()
	eachClient(t, func(t *testing.T, client protocol) {
		broken := make(chan error, 1)
		s := start(t, client, protocols[0].upstreamSettings(t, func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/silent" {
				broken <- err
			}
			_, _ = fmt.Fprint(w, n, err)
		}), harness.Settings{"VELOCITY_HTTP_READ_TIMEOUT": "500ms", "VELOCITY_UPSTREAM_TIMEOUT": "500ms"})
		body, write := io.Pipe()
		go func() {
			for range 8 {
				_, _ = io.WriteString(write, strings.Repeat("x", 10_000))
				time.Sleep(150 * time.Millisecond)
			}
			_ = write.Close()
		}()
		assert.Equal(t, "80000 <nil>", text(t, s.do(t, http.MethodPost, "/", body)))

		body, write = io.Pipe()
		go func() { _, _ = io.WriteString(write, "half") }()
		time.AfterFunc(harness.Timeout, func() { _ = write.Close() }) // lest the client waits for ever
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/silent", body)
		require.NoError(t, err)
		if res, err := s.client.Do(req); err == nil {
			assert.Equal(t, http.StatusRequestTimeout, res.StatusCode)
			_ = res.Body.Close()
		}
		select {
		case err := <-broken:
			assert.Error(t, err, "the upstream sees that the request is incomplete")
		case <-time.After(harness.Timeout):
			assert.Fail(t, "the upstream still waits")
		}
	})
}
