package test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/test/harness"
	"github.com/velocity-limiter/velocity/test/measure"
)

// connect opens a connection to the data plane.
func connect(t *testing.T, p *harness.Process) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Clients that send slowly, half a request, or nothing are disconnected in time.
func TestHostile_slowClientsAreCutOff(t *testing.T) {
	vars, most := harness.Settings{"VELOCITY_HTTP_READ_TIMEOUT": "500ms", "VELOCITY_HTTP_IDLE_TIMEOUT": "1s"}, harness.Timeout
	if measure.Exact() {
		vars, most = harness.Settings{"VELOCITY_HTTP_IDLE_TIMEOUT": "5s"}, 10*time.Second // the time to send is the default
	}
	p := harness.Start(t, vars)
	var wg sync.WaitGroup
	var mu sync.Mutex
	longest := time.Duration(0)
	for name, c := range map[string]struct {
		head string
		drip string // sent again and again
	}{
		"nothing":           {"", ""},
		"half a line":       {"GET /api/res", ""},
		"half a header":     {"GET /api/resource HTTP/1.1\r\nHost: x\r\nX-", ""},
		"half a body":       {"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", ""},
		"half a chunk":      {"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", ""},
		"a header for ever": {"GET /api/resource HTTP/1.1\r\nHost: x\r\nX-A: ", "a"},
		"a body for ever":   {"POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{", " "},
		"idle for ever":     {"GET /api/resource HTTP/1.1\r\nHost: x\r\n\r\n", ""},
	} {
		conn := connect(t, p)
		wg.Go(func() {
			began := time.Now()
			_, err := io.WriteString(conn, c.head)
			assert.NoError(t, err, name)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = io.Copy(io.Discard, conn) // until the server closes
			}()
			for drip := time.NewTicker(100 * time.Millisecond); ; {
				select {
				case <-done:
					drip.Stop()
					mu.Lock()
					longest = max(longest, time.Since(began))
					mu.Unlock()
					return
				case <-drip.C:
					_, _ = io.WriteString(conn, c.drip) // it may be cut off already
				}
				if !assert.Less(t, time.Since(began), most, "%s: it is not cut off", name) {
					_ = conn.Close()
				}
			}
		})
	}
	wg.Wait()
	t.Logf("the last was cut off after %v", longest)
	measure.Keep(t, "slow", map[string]any{"CutOff": longest})
	assert.Equal(t, http.StatusOK, p.Resource().Status, "the service still serves")
}

// Requests that arrive in one packet are decided one by one.
func TestHostile_pipelinedRequestsAreDecidedEach(t *testing.T) {
	const capacity, requests = 10, 200
	p := harness.Start(t, harness.Settings{"VELOCITY_RATE": "1/h", "VELOCITY_CAPACITY": strconv.Itoa(capacity)})
	conn := connect(t, p)
	_, err := io.WriteString(conn, strings.Repeat("GET /api/resource HTTP/1.1\r\nHost: x\r\n\r\n", requests))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(harness.Timeout)))
	in, statuses := bufio.NewReader(conn), map[int]int{}
	for range requests {
		res, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		statuses[res.StatusCode]++
	}
	assert.Equal(t, map[int]int{http.StatusOK: capacity, http.StatusTooManyRequests: requests - capacity}, statuses)
}
