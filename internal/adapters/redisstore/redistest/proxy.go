package redistest

import (
	"bytes"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// Tamper says what becomes of an answer of the script on its way: the bytes that are passed on, and whether the
// connection stays open.
type Tamper func(answer []byte) (instead []byte, open bool)

// Proxy stands between clients and a real server and tampers with the server's answers. The server has done what it
// was asked by then. Safe for concurrent use.
type Proxy struct {
	// Addr is where it listens.
	Addr string

	once     atomic.Pointer[Tamper]
	often    atomic.Pointer[repeated]
	tampered atomic.Int64
	listener net.Listener
	running  sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

// repeated tampers with every n-th answer.
type repeated struct {
	n     int64
	count atomic.Int64
	what  Tamper
}

// StartProxy starts a proxy to the server at upstream. The test's cleanup ends it.
func StartProxy(t testing.TB, upstream string) *Proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("a proxy: %v", err)
	}
	p := &Proxy{Addr: l.Addr().String()}
	p.listener = l
	p.running.Go(func() {
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
			p.running.Go(func() { p.copy(server, client, false) })
			p.running.Go(func() { p.copy(client, server, true) })
		}
	})
	t.Cleanup(p.Close)
	return p
}

// Close ends the proxy and its connections. More than once is fine.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

// TamperOnce tampers with the script's next answer, and with no other: a request that is sent again reaches the server
// and is seen there.
func (p *Proxy) TamperOnce(what Tamper) { p.once.Store(&what) }

// TamperWithEvery tampers with every n-th answer of the script, from now on. Relay ends it.
func (p *Proxy) TamperWithEvery(n int, what Tamper) {
	p.often.Store(&repeated{n: int64(n), what: what})
}

// Relay passes all answers on as they are.
func (p *Proxy) Relay() { p.often.Store(nil) }

// Tampered is how many answers were tampered with.
func (p *Proxy) Tampered() int { return int(p.tampered.Load()) }

func (p *Proxy) remember(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, conns...)
}

func (p *Proxy) forget(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(c net.Conn) bool { return c == conn })
}

func (p *Proxy) copy(to, from net.Conn, answers bool) {
	defer func() {
		_, _ = to.Close(), from.Close()
		p.forget(from)
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		answer, open := buffer[:n], true
		if answers && isDecision(answer) {
			answer, open = p.tamper(answer)
		}
		if _, err := to.Write(answer); err != nil || !open {
			return
		}
	}
}

func (p *Proxy) tamper(answer []byte) (instead []byte, open bool) {
	if once := p.once.Swap(nil); once != nil {
		p.tampered.Add(1)
		return (*once)(answer)
	}
	if often := p.often.Load(); often != nil && often.count.Add(1)%often.n == 0 {
		p.tampered.Add(1)
		return often.what(answer)
	}
	return answer, true
}

// isDecision tells the script's answers, which begin with their version, from others.
func isDecision(answer []byte) bool {
	_, elements, _ := bytes.Cut(answer, []byte("\r\n"))
	return answer[0] == '*' && bytes.HasPrefix(elements, []byte(":2\r\n"))
}
