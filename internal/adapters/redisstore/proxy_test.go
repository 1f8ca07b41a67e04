package redisstore_test

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy stands between a client and a real server and tampers with the server's answers. The server has done
// what it was asked by then.
type proxy struct {
	addr string
	// tamper says what becomes of the script's next answer: the bytes that are passed on, and whether the connection
	// stays open. It is used up by that answer, so that a request which is sent again reaches the server and is seen
	// there.
	tamper atomic.Pointer[func(answer []byte) (instead []byte, open bool)]
	mu     sync.Mutex
	conns  []net.Conn
}

func startProxy(t *testing.T, upstream string) *proxy {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{addr: l.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", upstream)
			if err != nil {
				_ = client.Close()
				continue
			}
			p.remember(client, server)
			running.Go(func() { p.copy(server, client, nil) })
			running.Go(func() { p.copy(client, server, &p.tamper) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		running.Wait()
	})
	return p
}

func (p *proxy) remember(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, conns...)
}

func (p *proxy) copy(to, from net.Conn, tamper *atomic.Pointer[func([]byte) ([]byte, bool)]) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		answer, open := buffer[:n], true
		if tamper != nil && isDecision(answer) {
			if once := tamper.Swap(nil); once != nil {
				answer, open = (*once)(answer)
			}
		}
		if _, err := to.Write(answer); err != nil || !open {
			return
		}
	}
}

// isDecision tells the script's answers, which begin with their version, from others.
func isDecision(answer []byte) bool {
	_, elements, _ := bytes.Cut(answer, []byte("\r\n"))
	return answer[0] == '*' && bytes.HasPrefix(elements, []byte(":1\r\n"))
}
