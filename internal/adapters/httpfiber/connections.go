package httpfiber

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// connections counts and bounds the open connections of a server, and can end their reading. fasthttp waits, when
// it stops, for connections that have sent nothing or half a request, for as long as they care to take.
type connections struct {
	slots chan struct{}

	mu   sync.Mutex
	open map[*conn]struct{}
	// until caps every read deadline once it is set.
	until atomic.Pointer[time.Time]
}

func newConnections(most int) *connections {
	return &connections{slots: make(chan struct{}, most), open: make(map[*conn]struct{})}
}

// readUntil makes every read end at t at the latest. What is being answered is not touched.
func (s *connections) readUntil(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until.Store(&t)
	for c := range s.open {
		_ = c.SetReadDeadline(t)
	}
}

// await waits until no connection is open, and reports whether that came before ctx ended. fasthttp does not wait for those that it has handed over: to
// WebSockets, which the end of reading ends, and to answers of HTTP/1.0.
func (s *connections) await(ctx context.Context) bool {
	const pause = 5 * time.Millisecond
	for {
		s.mu.Lock()
		open := len(s.open)
		s.mu.Unlock()
		if open == 0 {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

func (s *connections) closeAll() {
	s.mu.Lock()
	open := make([]*conn, 0, len(s.open))
	for c := range s.open {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

// listen wraps a listener. At most one connection per slot is accepted; further ones wait in the kernel's queue.
func (s *connections) listen(ln net.Listener, log *zap.Logger) *listener {
	return &listener{Listener: ln, conns: s, log: log, done: make(chan struct{})}
}

type listener struct {
	net.Listener
	conns *connections
	log   *zap.Logger
	told  time.Time // when an error was last logged
	once  sync.Once
	done  chan struct{}
	err   error
}

// Accept waits for a free slot. Errors that pass, such as too many open files, are told and waited out: fasthttp would
// take them for the end of the listener. It is called by one goroutine.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.conns.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	const longest = time.Second
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, longest) {
		c, err := l.Listener.Accept()
		if err == nil {
			return l.conns.add(c), nil
		}
		if !passes(err) {
			<-l.conns.slots
			return nil, err
		}
		l.tell(err)
		select {
		case <-time.After(pause):
		case <-l.done:
		}
	}
}

// tell logs why no connection can be accepted, at most once in ten seconds.
func (l *listener) tell(err error) {
	const apart = 10 * time.Second
	if now := time.Now(); now.Sub(l.told) >= apart {
		l.told = now
		l.log.Error("No connection can be accepted: those that are open are served, others wait", zap.Error(err))
	}
}

func passes(err error) bool {
	for _, temporary := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.ECONNRESET,
	} {
		if errors.Is(err, temporary) {
			return true
		}
	}
	return false
}

// Close may be called more than once.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.err = l.Listener.Close()
	})
	return l.err
}

// conn holds a slot until it is closed.
type conn struct {
	net.Conn
	conns     *connections
	read      deadline
	write     deadline
	closed    atomic.Bool
	lingering atomic.Bool
}

func (s *connections) add(c net.Conn) *conn {
	now := time.Now()
	tracked := &conn{
		Conn: c, conns: s,
		read:  deadline{set: c.SetReadDeadline, start: now},
		write: deadline{set: c.SetWriteDeadline, start: now},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[tracked] = struct{}{}
	if until := s.until.Load(); until != nil {
		_ = tracked.SetReadDeadline(*until)
	}
	return tracked
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err == nil || n > 0 || !c.read.endedEarly(err) {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	written := 0
	for {
		n, err := c.Conn.Write(p[written:])
		written += n
		if err == nil || !c.write.endedEarly(err) {
			return written, err
		}
	}
}

// SetReadDeadline never passes the deadline that the server's end has set.
func (c *conn) SetReadDeadline(t time.Time) error {
	if err := c.read.want(t); err != nil {
		return err
	}
	// Looked at afterwards, so that readUntil, which comes between, is not overwritten.
	if until := c.conns.until.Load(); until != nil && (t.IsZero() || t.After(*until)) {
		return c.read.want(*until)
	}
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.write.want(t) }

// SetDeadline is both deadlines.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Close gives the slot back.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	if c.lingering.Load() {
		c.readOut()
	}
	c.conns.mu.Lock()
	delete(c.conns.open, c)
	c.conns.mu.Unlock()
	err := c.Conn.Close()
	<-c.conns.slots
	return err
}

// linger marks a connection whose client is probably still sending. Closing it at once would make the kernel reset
// it, and the client might never see the answer (RFC 9112 section 9.6).
func linger(c net.Conn) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = t.NetConn()
	}
	if own, ok := c.(*conn); ok {
		own.lingering.Store(true)
	}
}

// readOut reads what still comes, but not for long.
func (c *conn) readOut() {
	const longest = 500 * time.Millisecond
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.Conn.SetReadDeadline(time.Now().Add(longest)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c.Conn)
}
