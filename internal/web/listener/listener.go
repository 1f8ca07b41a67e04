// Package listener accepts the connections of HTTP servers: a bounded number at once, each with deadlines that cost little.
//
// It waits out temporary errors, such as too many open files, and knows the open connections, so that a server that stops
// can end those that would keep it.
package listener

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// Conns counts and bounds the open connections of a server, and can end them. Make it with New. It is safe for concurrent
// use.
type Conns struct {
	slots chan struct{}
	log   *zap.Logger

	mu   sync.Mutex
	open map[*conn]struct{}
	// until bounds every read deadline once it is set.
	until atomic.Pointer[time.Time]
}

// New returns Conns for most connections at once, or for fewer if the limit on open files leaves fewer.
func New(most int, log *zap.Logger) *Conns {
	most = boundByOpenFiles(most, log)
	return &Conns{slots: make(chan struct{}, most), log: log, open: make(map[*conn]struct{})}
}

// Most is the number of connections that may be open at once.
func (s *Conns) Most() int { return cap(s.slots) }

// ReadUntil makes every read end at t at the latest. For fasthttp, which otherwise waits without bound for connections that
// have sent nothing or half a request. It does not affect requests that fasthttp is answering.
func (s *Conns) ReadUntil(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until.Store(&t)
	for c := range s.open {
		_ = c.SetReadDeadline(t)
	}
}

// Await waits until no connection is open, and reports whether that happened before ctx ended.
func (s *Conns) Await(ctx context.Context) bool {
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

// CloseAll closes every open connection.
func (s *Conns) CloseAll() { s.closeThose(func(*conn) bool { return true }) }

// CloseUnbegun closes the connections whose first request has not arrived. For net/http, which waits up to five seconds for
// them; see [Begun].
func (s *Conns) CloseUnbegun() { s.closeThose(func(c *conn) bool { return !c.begun.Load() }) }

func (s *Conns) closeThose(which func(*conn) bool) {
	s.mu.Lock()
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, c := range open {
		if which(c) {
			_ = c.Close()
		}
	}
}

// Listen wraps a listener. At most so many connections as New says are accepted; further ones wait in the kernel's queue.
// Only one goroutine may call Accept. Close may be called more than once.
func (s *Conns) Listen(ln net.Listener) net.Listener {
	return &listener{Listener: ln, conns: s, log: s.log, done: make(chan struct{})}
}

type listener struct {
	net.Listener
	conns  *Conns
	log    *zap.Logger
	logged time.Time // when an error was last logged
	once   sync.Once
	done   chan struct{}
	err    error
}

// Accept waits for a free slot. It logs and waits out temporary errors, such as too many open files, which would end
// a server's loop. Only one goroutine may call it.
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
		if !temporary(err) {
			<-l.conns.slots
			return nil, err
		}
		l.warn(err)
		select {
		case <-time.After(pause):
		case <-l.done:
		}
	}
}

// warn logs why no connection can be accepted, at most once in ten seconds.
func (l *listener) warn(err error) {
	const interval = 10 * time.Second
	if now := time.Now(); now.Sub(l.logged) >= interval {
		l.logged = now
		l.log.Error("No connection can be accepted: those that are open are served, others wait", zap.Error(err))
	}
}

func temporary(err error) bool {
	errno, _ := errors.AsType[syscall.Errno](err)
	switch errno {
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.ECONNRESET:
		return true
	default:
		return false
	}
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
	conns     *Conns
	read      deadline
	write     deadline
	closed    atomic.Bool
	lingering atomic.Bool
	begun     atomic.Bool
}

func (s *Conns) add(c net.Conn) *conn {
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

// SetReadDeadline implements net.Conn. The deadline is never later than that of ReadUntil.
func (c *conn) SetReadDeadline(t time.Time) error {
	if err := c.read.want(t); err != nil {
		return err
	}
	// Checked last, so that a ReadUntil that comes in between is not overwritten.
	if until := c.conns.until.Load(); until != nil && (t.IsZero() || t.After(*until)) {
		return c.read.want(*until)
	}
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.write.want(t) }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Close implements net.Conn. It frees the slot.
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

// Linger marks a connection whose client is probably still sending: Close will read for a while first. Closing at once
// would make the kernel reset the connection, and the client might not see the answer (RFC 9112 section 9.6).
func Linger(c net.Conn) {
	if own, ok := withoutTLS(c).(*conn); ok {
		own.lingering.Store(true)
	}
}

// Begun marks a connection whose first request has arrived.
func Begun(c net.Conn) {
	if own, ok := withoutTLS(c).(*conn); ok && !own.begun.Load() {
		own.begun.Store(true)
	}
}

func withoutTLS(c net.Conn) net.Conn {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return c
}

// CloseWrite ends the direction to the client, which net/http does before it waits for a client that is still sending.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// readOut reads what the client is still sending, for half a second at most.
func (c *conn) readOut() {
	const longest = 500 * time.Millisecond
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.Conn.SetReadDeadline(time.Now().Add(longest)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c.Conn)
}
