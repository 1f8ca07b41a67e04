package conn

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/failure"
)

// Dialer makes the connections of clients until it is closed. go-redis connects on goroutines of its own, which outlive the
// call that they connect for and the client; some wait for a sentinel's answer, too. Make it with NewDialer. Safe for
// concurrent use.
type Dialer struct {
	closed  context.Context
	close   context.CancelFunc
	dialing sync.RWMutex // held for reading by each attempt to connect
}

// NewDialer returns a dialer. Close it after use.
func NewDialer() *Dialer {
	d := &Dialer{}
	d.closed, d.close = context.WithCancel(context.Background())
	return d
}

// Close ends every attempt to connect and every connection. Later attempts fail with redis.ErrClosed.
func (d *Dialer) Close() {
	d.close()
	d.dialing.Lock() // waits for the attempts
	defer d.dialing.Unlock()
}

// dial connects to a server within a time, with a TLS handshake if there is a TLS configuration.
func (d *Dialer) dial(ctx context.Context, within time.Duration, secure *tls.Config, network, addr string) (net.Conn, error) {
	d.dialing.RLock()
	defer d.dialing.RUnlock()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	defer context.AfterFunc(d.closed, cancel)()
	conn, err := d.connect(ctx, network, addr, secure == nil)
	if err == nil && secure != nil {
		conn, err = handshake(ctx, conn, secure, addr)
	}
	if err != nil && d.closed.Err() != nil {
		return nil, redis.ErrClosed
	}
	return conn, err
}

// connect connects without TLS. plain says that the connection carries replies: within TLS nothing damages them.
func (d *Dialer) connect(ctx context.Context, network, addr string, plain bool) (net.Conn, error) {
	// A peer that has vanished is noticed after 45 s: before load balancers forget an idle connection.
	keepAlive := net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3}
	conn, err := (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &tiedConn{Conn: conn, untie: context.AfterFunc(d.closed, func() { _ = conn.Close() }), plain: plain}, nil
}

func handshake(ctx context.Context, conn net.Conn, cfg *tls.Config, addr string) (net.Conn, error) {
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		cfg.ServerName, _, _ = net.SplitHostPort(addr) // connected to, so it is valid
	}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

// tiedConn is a connection that its dialer closes, too.
type tiedConn struct {
	net.Conn
	untie   func() bool
	plain   bool
	lengths lengths

	answered atomic.Bool // something has been read
	refused  atomic.Pointer[failure.DialError]
}

var _ syscall.Conn = (*tiedConn)(nil)

// Read implements net.Conn. A server that refuses a new connection says why, and closes it: in protected mode, or with too many clients.
// That is the error of this and every later call: go-redis takes such a reply for one of a server that does not know its command, and goes on.
func (c *tiedConn) Read(p []byte) (int, error) {
	if refused := c.refused.Load(); refused != nil {
		return 0, refused
	}
	n, err := c.Conn.Read(p)
	if n == 0 || !c.plain {
		return n, err
	}
	if !c.answered.Swap(true) {
		line, _, _ := strings.Cut(string(p[:n]), "\r\n")
		if failure.Refuses(line) {
			refused := &failure.DialError{Err: failure.ScriptError(line[1:])}
			c.refused.Store(refused)
			return 0, refused
		}
	}
	if damaged := c.lengths.read(p[:n]); damaged != nil {
		return 0, damaged
	}
	return n, err
}

// Write implements net.Conn. Where a refusal came first, sending fails, and what the server has said is the error.
func (c *tiedConn) Write(p []byte) (int, error) {
	if refused := c.refused.Load(); refused != nil {
		return 0, refused
	}
	n, err := c.Conn.Write(p)
	if ended := err != nil && !errors.Is(err, os.ErrDeadlineExceeded); ended && c.plain && !c.answered.Load() {
		_, _ = c.Read(make([]byte, 1024)) // does not wait, since the connection has ended
		if refused := c.refused.Load(); refused != nil {
			return n, refused
		}
	}
	return n, err
}

// Close implements net.Conn.
func (c *tiedConn) Close() error {
	c.untie()
	return c.Conn.Close()
}

// SyscallConn implements syscall.Conn. go-redis calls it to check an idle connection before it uses it.
func (c *tiedConn) SyscallConn() (syscall.RawConn, error) {
	conn, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return conn.SyscallConn()
}
