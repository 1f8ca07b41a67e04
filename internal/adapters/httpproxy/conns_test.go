package httpproxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestProxy_aConnectionThatTheUpstreamClosedIsNotUsed: else the request after it would be lost. The Transport notices on a
// goroutine of its own. A request that is sent in that moment gets 502, since it must not be sent twice.
func TestProxy_aConnectionThatTheUpstreamClosedIsNotUsed(t *testing.T) {
	var conns atomic.Int32
	closed := make(chan struct{}, 1)
	url := rawUpstream(t, func(c net.Conn, in *bufio.Reader) {
		conns.Add(1)
		says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(c, in) // and no word of closing it
		_ = c.Close()
		closed <- struct{}{}
	})
	addr := start(t, proxyConfig(url), always(decided(t, 9, 1, true)))
	const requests = 5
	for i := range requests {
		got := call(t, "POST", "http://"+addr+"/", "body")
		require.Equal(t, 200, got.status, "request %d", i)
		<-closed
		time.Sleep(200 * time.Millisecond) // it has noticed
	}
	assert.Equal(t, int32(requests), conns.Load())
}

func TestProxy_connectionsAreKept(t *testing.T) {
	conns := make(map[string]bool)
	addr := startProxy(t, func(w http.ResponseWriter, r *http.Request) {
		conns[r.RemoteAddr] = true
		body, _ := io.ReadAll(r.Body)
		if len(body) > 0 {
			_ = http.NewResponseController(w).Flush() // chunked
		}
		_, _ = w.Write(body)
	})
	for range 10 {
		for _, body := range []string{"", "small", strings.Repeat("x", 100_000)} {
			assert.Len(t, call(t, "POST", "http://"+addr+"/", body).body, len(body))
		}
	}
	assert.LessOrEqual(t, len(conns), 5, "an answer may reach the client before its connection is free again")
}

// TestProxy_unrequestedBytes would be taken for the answer to the next request, which may be another client's.
func TestProxy_unrequestedBytes(t *testing.T) {
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	url := rawUpstream(t, func(c net.Conn, in *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"+evil)
		}
	})
	addr := start(t, proxyConfig(url), always(decided(t, 9, 1, true)))
	for range 5 {
		assert.Equal(t, "good", call(t, "GET", "http://"+addr+"/", "").body)
	}
}

func TestProxy_theCapOnConnectionsHolds(t *testing.T) {
	var now, most atomic.Int32
	cfg := proxyConfig(startUpstream(t, func(http.ResponseWriter, *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		time.Sleep(20 * time.Millisecond)
		now.Add(-1)
	}))
	cfg.Upstream.MaxConns = 2
	addr := start(t, cfg, always(decided(t, 9, 1, true)))
	var failed atomic.Int32
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if res, err := http.Get("http://" + addr + "/"); err != nil || res.StatusCode != 200 || res.Body.Close() != nil {
				failed.Add(1)
			}
		})
	}
	all.Wait()
	assert.Zero(t, failed.Load())
	assert.Equal(t, int32(2), most.Load())
}

// TestProxy_aClientThatLeavesEndsTheExchange: also while the upstream has nothing to say.
func TestProxy_aClientThatLeavesEndsTheExchange(t *testing.T) {
	for _, begun := range []bool{false, true} {
		started, ended := make(chan struct{}), make(chan struct{})
		addr := startProxy(t, func(w http.ResponseWriter, r *http.Request) {
			if begun {
				_ = http.NewResponseController(w).Flush()
			}
			close(started)
			<-r.Context().Done()
			close(ended)
		})
		conn := dial(t, addr)
		_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		<-started
		require.NoError(t, conn.Close())
		select {
		case <-ended:
		case <-time.After(patience):
			require.Fail(t, "the upstream is still asked", "answer begun: %v", begun)
		}
	}
}

func TestProxy_aClientThatDoesNotReadIsCutOff(t *testing.T) {
	ended := make(chan struct{})
	cfg := proxyConfig(startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		defer close(ended)
		piece := make([]byte, 1<<20)
		for {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	}))
	cfg.WriteTimeout = 200 * time.Millisecond
	addr := start(t, cfg, always(decided(t, 9, 1, true)))
	conn := dial(t, addr)
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	select {
	case <-ended:
	case <-time.After(patience):
		require.Fail(t, "it still fills the upstream's connection")
	}
}

// TestProxy_aRefusedBodyLeavesTheConnectionUsable: the next request of a client is answered on it, or it was said that it closes.
func TestProxy_aRefusedBodyLeavesTheConnectionUsable(t *testing.T) {
	dead := proxyConfig("http://127.0.0.1:1")
	for name, addr := range map[string]string{
		"denied":            start(t, proxyConfig("http://127.0.0.1:1"), always(decided(t, 0, 1, false))),
		"the upstream dead": start(t, dead, always(decided(t, 9, 1, true))),
	} {
		for _, size := range []int{1, 1000, 60_000, 100_000} {
			conn := dial(t, addr)
			in := bufio.NewReader(conn)
			for i := range 3 {
				_, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size))
				require.NoError(t, err, "%s, %d bytes, request %d", name, size, i)
				res, err := http.ReadResponse(in, nil)
				require.NoError(t, err, "%s, %d bytes, request %d", name, size, i)
				if read(t, res).close {
					break
				}
			}
			require.NoError(t, conn.Close())
		}
	}
}
