package redistest

import (
	"bytes"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Tamper changes an answer of the script on its way: it returns the bytes to pass on, and whether the connection stays
// open.
type Tamper func(answer []byte) (instead []byte, open bool)

// Proxy stands between clients and a real server and tampers with the server's answers. The server has carried out the
// request by then. Safe for concurrent use.
type Proxy struct {
	// Addr is where it listens.
	Addr string

	once     atomic.Pointer[Tamper]
	often    atomic.Pointer[repeated]
	tampered atomic.Int64
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]bool
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
	p := &Proxy{Addr: l.Addr().String(), listener: l, conns: make(map[net.Conn]bool)}
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
			if !p.hold(client, server) {
				return
			}
			p.running.Go(func() { p.copy(server, client, false) })
			p.running.Go(func() { p.copy(client, server, true) })
		}
	})
	t.Cleanup(p.Close)
	return p
}

// hold keeps the two connections for Close, which may have been called since the client was accepted: then hold closes them,
// and reports false.
func (p *Proxy) hold(client, server net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_, _ = client.Close(), server.Close()
		return false
	}
	p.conns[client], p.conns[server] = true, true
	return true
}

// Close ends the proxy and its connections. More than once is fine.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

// TamperOnce tampers with the script's next answer only, so that a request that is sent again reaches the server, where a
// test can count it.
func (p *Proxy) TamperOnce(what Tamper) { p.once.Store(&what) }

// TamperWithEvery tampers with every n-th answer of the script, from now on. Relay ends it.
func (p *Proxy) TamperWithEvery(n int, what Tamper) {
	p.often.Store(&repeated{n: int64(n), what: what})
}

// Relay passes all answers on as they are.
func (p *Proxy) Relay() { p.often.Store(nil) }

// Tampered is how many answers were tampered with.
func (p *Proxy) Tampered() int { return int(p.tampered.Load()) }

func (p *Proxy) copy(to, from net.Conn, answers bool) {
	defer func() {
		_, _ = to.Close(), from.Close()
		p.mu.Lock()
		delete(p.conns, from)
		p.mu.Unlock()
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

// isDecision reports whether an answer is the script's: those begin with their version.
func isDecision(answer []byte) bool {
	_, elements, _ := bytes.Cut(answer, []byte("\r\n"))
	return answer[0] == '*' && bytes.HasPrefix(elements, []byte(":5\r\n"))
}

// Refusing returns an address that refuses connections until the test ends: a port that is taken, and that no server listens on.
func Refusing(t testing.TB) string {
	t.Helper()
	_, addr := bound(t)
	return addr
}

// Blackhole returns an address that answers no connection attempt, as a host behind a broken route does: a socket
// without accept calls, whose queue is full.
func Blackhole(t testing.TB) string {
	t.Helper()
	fd, addr := bound(t)
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatalf("a black hole: %v", err)
	}
	for range 64 {
		c, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Fatal("the queue of a socket without accept calls does not fill")
	return ""
}

// bound returns a socket that is bound to a port of 127.0.0.1 until the test ends, and the address.
func bound(t testing.TB) (fd int, addr string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("a bound socket: %v", err)
		}
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	must(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	name, err := syscall.Getsockname(fd)
	must(err)
	return fd, net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
}
