package test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/redistest"
	"github.com/velocity-limiter/velocity/test/harness"
)

// A service that is out of file descriptors serves its open connections, logs the lack, and accepts again later.
func TestHostile_openConnectionsAreServedWithoutFreeFiles(t *testing.T) {
	const held, further = 20, 50
	server := redistest.Start(t)
	p := harness.Start(t, harness.Settings{
		"VELOCITY_REDIS_ADDRS": server.Addr, "VELOCITY_RATE": "1000/s", "VELOCITY_CAPACITY": "100000",
		"VELOCITY_TAKE_TIMEOUT": harness.Timeout.String(), "VELOCITY_HTTP_IDLE_TIMEOUT": "1m",
		"VELOCITY_REDIS_POOL_SIZE": "1", // it is open; a second one would need a file
	})
	conns := make([]*keptConn, held)
	for i := range conns {
		conns[i] = &keptConn{Conn: connect(t, p)}
		conns[i].send(t)
		conns[i].requireOK(t, harness.Timeout)
	}
	before := setFileLimit(p, limitForMoreFiles(p, 2))

	waiting := make([]*keptConn, further)
	for i := range waiting {
		waiting[i] = &keptConn{Conn: connect(t, p)} // the kernel accepts the connection and the request
		waiting[i].send(t)
	}
	const lack = "No connection can be accepted: those that are open are served, others wait"
	require.Eventually(t, func() bool { return len(p.LogLines(lack)) > 0 }, harness.Timeout, harness.Interval)
	assert.Contains(t, p.LogLines(lack)[0]["error"], "too many open files")
	for range 3 {
		for _, c := range conns {
			c.send(t)
			c.requireOK(t, harness.Timeout)
		}
	}
	last := waiting[further-1]
	assert.False(t, last.responds(100*time.Millisecond), "there is no file for it")

	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	for _, c := range waiting[:held] {
		c.requireOK(t, harness.Timeout)
	}
	setFileLimit(p, before)
	for _, c := range waiting[held:] {
		c.requireOK(t, harness.Timeout)
	}
	assert.Equal(t, http.StatusOK, p.Resource().Status)
	assert.Empty(t, p.Stderr.String())
}

// limitForMoreFiles returns the limit with which the process can open so many more files. A new file gets the lowest
// free number.
func limitForMoreFiles(p *harness.Process, more int) uint64 {
	p.T.Helper()
	names, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.Cmd.Process.Pid), "fd"))
	require.NoError(p.T, err)
	open := map[string]bool{}
	for _, name := range names {
		open[name.Name()] = true
	}
	n := 0
	for ; more > 0; n++ {
		if !open[strconv.Itoa(n)] {
			more--
		}
	}
	return uint64(n)
}

// setFileLimit sets the limit of open files, and returns the one before.
func setFileLimit(p *harness.Process, n uint64) uint64 {
	p.T.Helper()
	var old unix.Rlimit
	pid := p.Cmd.Process.Pid
	require.NoError(p.T, unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old))
	require.NoError(p.T, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}, nil))
	return old.Cur
}

// keptConn is a connection that sends several requests.
type keptConn struct {
	net.Conn
	in *bufio.Reader
}

func (c *keptConn) send(t *testing.T) {
	t.Helper()
	_, err := io.WriteString(c, "GET /api/resource HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
}

// requireOK waits for a response that the store decided.
func (c *keptConn) requireOK(t *testing.T, timeout time.Duration) {
	t.Helper()
	require.True(t, c.responds(timeout), "no response")
	res, err := http.ReadResponse(c.in, nil)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Empty(t, res.Header.Get("X-RateLimit-Store"), "nothing failed")
}

// responds reports whether a response begins in time.
func (c *keptConn) responds(within time.Duration) bool {
	if c.in == nil {
		c.in = bufio.NewReader(c)
	}
	_ = c.SetReadDeadline(time.Now().Add(within)) // an error ends the reading
	_, err := c.in.Peek(1)
	return err == nil
}
