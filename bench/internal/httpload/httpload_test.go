package httpload_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/bench/internal/httpload"
	"github.com/velocity-limiter/velocity/bench/internal/load"
)

func TestNewCall_keepsItsConnection(t *testing.T) {
	long := strings.Repeat("x", 20_000)
	peers := make(map[string]int) // one worker: no two handlers at once
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peers[r.RemoteAddr]++
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Length", "20000")
		if string(body) == "5" {
			w.WriteHeader(http.StatusTooManyRequests)
		}
		fmt.Fprint(w, long) // more than the buffer holds at first
	}))
	defer server.Close()
	connections := httpload.NewConnections(server.Listener.Addr().String())
	n := 0
	call, err := connections.NewCall(httpload.Exchange{
		AppendRequest: func(dst []byte, _ *rand.Rand) []byte {
			n++
			return fmt.Appendf(dst, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d", n)
		},
		Classify: func(a httpload.Answer) (load.Outcome, error) {
			o := load.Outcome{Decisions: 1}
			if a.Status == http.StatusOK {
				o.Allowed = 1
			}
			assert.Len(t, a.Body, 20_000)
			assert.Contains(t, string(a.Head), "HTTP/1.1 ")
			return o, nil
		},
	})
	require.NoError(t, err)
	for i := range 9 {
		o, err := call(nil)
		require.NoError(t, err)
		want := 1
		if i == 4 {
			want = 0
		}
		assert.Equal(t, want, o.Allowed)
	}
	assert.Len(t, peers, 1)
	require.NoError(t, connections.Close())
	_, err = call(nil)
	assert.ErrorIs(t, err, net.ErrClosed)
}

func TestDo_refusesWhatItDoesNotUnderstand(t *testing.T) {
	cases := []struct{ name, answer, want string }{
		{"no length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "no Content-Length"},
		{"too much", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", "1 bytes follow"},
		{"cut short", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", "EOF"},
		{"garbled status", "HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n", "invalid syntax"},
	}
	for _, c := range cases {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		go func() {
			peer, err := l.Accept()
			if err == nil {
				_, _ = peer.Read(make([]byte, 1))
				_, _ = io.WriteString(peer, c.answer)
				_ = peer.Close()
			}
		}()
		connections := httpload.NewConnections(l.Addr().String())
		_, err = connections.Do([]byte("G"))
		assert.ErrorContains(t, err, c.want, c.name)
		require.NoError(t, connections.Close())
		require.NoError(t, l.Close())
	}
}
