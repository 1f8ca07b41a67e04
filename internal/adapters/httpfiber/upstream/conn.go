package upstream

import (
	"bufio"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// readBuffer is the largest header of an answer, and what each connection costs in memory.
	readBuffer = 16 << 10
	// watchInterval is how often a wait for the server looks whether the client is still there.
	watchInterval = time.Second
)

// conn is one connection to the server.
type conn struct {
	net.Conn // wire, or TLS over it
	wire     *wire
	in       *bufio.Reader
	// idleSince is the pool's.
	idleSince time.Time
}

func newConn(w *wire, c net.Conn) *conn {
	return &conn{Conn: c, wire: w, in: bufio.NewReaderSize(c, readBuffer)}
}

// wire is the TCP connection. Its reads end when the time for them is over or the client has gone, whichever is first.
type wire struct {
	net.Conn
	raw   syscall.RawConn
	start time.Time
	until atomic.Int64 // nanoseconds since start; 0: no end
	// client is the connection of the client that waits; nil: nobody's.
	client syscall.RawConn
	// ended is why a read ended before the server said anything: fasthttp does not tell.
	ended error
}

func newWire(tcp net.Conn) *wire {
	w := &wire{Conn: tcp, start: time.Now()}
	w.raw = RawConn(tcp)
	return w
}

// RawConn is what tells of a connection without reading from it; nil if that has none.
func RawConn(c net.Conn) syscall.RawConn {
	if sys, ok := c.(syscall.Conn); ok {
		if raw, err := sys.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// readUntil bounds the reads from now on; the zero Time does not.
func (w *wire) readUntil(t time.Time) {
	var at int64
	if !t.IsZero() {
		at = max(t.Sub(w.start).Nanoseconds(), 1)
	}
	w.until.Store(at)
	w.arm()
}

// arm lets the next wait end at the next look for the client, or at its end.
func (w *wire) arm() {
	next := time.Now().Add(watchInterval)
	if at := w.until.Load(); at != 0 {
		if end := w.start.Add(time.Duration(at)); end.Before(next) {
			next = end
		}
	}
	_ = w.SetReadDeadline(next) // fails on a closed connection alone, and so does the read
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	for {
		n, err := w.Conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if at := w.until.Load(); at != 0 && time.Since(w.start).Nanoseconds() >= at {
			w.ended = ErrTimeout
		} else if w.client != nil && hungUp(w.client) {
			w.ended = ErrClientGone
		}
		if w.ended != nil {
			return 0, w.ended
		}
		w.arm()
	}
}

// untouched reports whether an idle connection is as it was left: neither closed by the server nor written to.
func (w *wire) untouched() bool { return w.raw == nil || quiet(w.raw) }
