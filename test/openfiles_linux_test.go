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
)

// A service that has no file left for a further connection keeps serving those that it has, says so, and accepts again
// when it has one.
func TestHostile_aLackOfFilesKeepsNobodyFromBeingServed(t *testing.T) {
	const held, further = 20, 50
	server := redistest.Start(t)
	p := start(t, settings{
		"VELOCITY_REDIS_ADDRS": server.Addr, "VELOCITY_RATE": "1000/s", "VELOCITY_CAPACITY": "100000",
		"VELOCITY_TAKE_TIMEOUT": patience.String(), "VELOCITY_HTTP_IDLE_TIMEOUT": "1m",
		"VELOCITY_REDIS_POOL_SIZE": "1", // which is there: a second one would need a file
	})
	conns := make([]*lasting, held)
	for i := range conns {
		conns[i] = &lasting{Conn: connect(t, p)}
		conns[i].ask(t)
		conns[i].answered(t, patience)
	}
	before := p.limitFiles(p.fileLimit(2))

	waiting := make([]*lasting, further)
	for i := range waiting {
		waiting[i] = &lasting{Conn: connect(t, p)} // the kernel accepts it, and what is sent
		waiting[i].ask(t)
	}
	const lack = "No connection can be accepted: those that are open are served, others wait"
	require.Eventually(t, func() bool { return len(p.logged(lack)) > 0 }, patience, tick)
	assert.Contains(t, p.logged(lack)[0]["error"], "too many open files")
	for range 3 {
		for _, c := range conns {
			c.ask(t)
			c.answered(t, patience)
		}
	}
	last := waiting[further-1]
	assert.False(t, last.answers(100*time.Millisecond), "there is no file for it")

	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	for _, c := range waiting[:held] {
		c.answered(t, patience)
	}
	p.limitFiles(before)
	for _, c := range waiting[held:] {
		c.answered(t, patience)
	}
	assert.Equal(t, http.StatusOK, p.resource().status)
	assert.Empty(t, p.stderr.String())
}

// fileLimit is the limit under which the process can open so many files more: one has the lowest number that is free.
func (p *process) fileLimit(more int) uint64 {
	p.t.Helper()
	names, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "fd"))
	require.NoError(p.t, err)
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

// limitFiles lets the process open files of lower numbers alone, and returns what was in force.
func (p *process) limitFiles(n uint64) uint64 {
	p.t.Helper()
	var old unix.Rlimit
	pid := p.cmd.Process.Pid
	require.NoError(p.t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old))
	require.NoError(p.t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}, nil))
	return old.Cur
}

// lasting is a connection that asks more than once.
type lasting struct {
	net.Conn
	in *bufio.Reader
}

func (c *lasting) ask(t *testing.T) {
	t.Helper()
	_, err := io.WriteString(c, "GET /api/resource HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
}

// answered waits for an answer of the store.
func (c *lasting) answered(t *testing.T, patience time.Duration) {
	t.Helper()
	require.True(t, c.answers(patience), "it is not answered")
	res, err := http.ReadResponse(c.in, nil)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Empty(t, res.Header.Get("X-RateLimit-Store"), "nothing failed")
}

// answers reports whether an answer begins within so much time.
func (c *lasting) answers(within time.Duration) bool {
	if c.in == nil {
		c.in = bufio.NewReader(c)
	}
	_ = c.SetReadDeadline(time.Now().Add(within)) // an error ends the reading
	_, err := c.in.Peek(1)
	return err == nil
}
