package httpproxy

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/keyvalue"
	"github.com/velocity-limiter/velocity/internal/web/problem"
	"github.com/velocity-limiter/velocity/internal/web/requestid"
)

// linger is how long the server reads what a client is still sending when it has its answer. If it closed at once, the
// client might not see the answer (RFC 9112 section 9.6).
const linger = 500 * time.Millisecond

// exchange is one request and its answer. It is also the ResponseWriter of the answer, which sets its header and its deadlines.
// Its memory is used again for later requests.
type exchange struct {
	http.ResponseWriter
	proxy   *proxy
	control *http.ResponseController
	in      *http.Request
	body    *clientBody // nil if the request has none

	id          string
	path, query string // the path is in its normal form
	peer        netip.Addr
	trusted     bool
	upgrade     bool // to WebSocket

	req     [1]policy.Request
	answer  [1]ports.Answer
	values  keyvalue.Finder
	decided bool
	actual  actualCost
	span    ports.RequestSpan // nil if the request is not recorded

	fromUpstream bool            // the answer, and not of our own
	slot         bool            // of the upstream
	res          *http.Response  // the upstream's answer; nil before its header
	tunnel       context.Context // of a WebSocket; else nil
	hijacked     bool

	status       int  // of the answer; 0 before its header
	closing      bool // the connection ends with the answer
	length       int64
	written      int64
	writeErr     error
	clientFailed bool // the client, not the upstream, is why the request failed

	ahead  func() ([]byte, error) // x.bodyAhead: making the method value allocates
	before func() error           // x.beforeWait
	fields limitFields
	buf    []byte
}

type exchangeKey struct{}

// exchangeOf returns the exchange of a request that the ReverseProxy handles.
func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

func newExchange(p *proxy) *exchange {
	x := &exchange{proxy: p}
	x.fields.set, x.ahead, x.before = x.fields.add, x.bodyAhead, x.beforeWait
	return x
}

// begin makes x the exchange of r.
func (x *exchange) begin(w http.ResponseWriter, r *http.Request) {
	x.ResponseWriter, x.in, x.control = w, r, http.NewResponseController(w)
	x.length = -1
	if r.ContentLength != 0 {
		// Without it, net/http would read a part of the body before it sends an answer.
		_ = x.control.EnableFullDuplex() // fails where it is so anyway
		x.body = newClientBody(x)
	}
	x.peer = parsePeer(r.RemoteAddr)
	x.trusted = x.proxy.clients.Proxies.Trusts(x.peer)
	x.id = r.Header.Get(requestid.Header)
	if !requestid.Valid(x.id) {
		x.id = string(requestid.Append(x.buf[:0]))
	}
}

// end ends every exchange, and reports whether the answer is to be cut off. reason is what the handler panicked with.
func (x *exchange) end(reason any) (aborted bool) {
	switch reason {
	case nil:
	case http.ErrAbortHandler:
		aborted = true
		x.brokeOff()
	default:
		x.proxy.log.Error("a handler panicked", zap.Any("reason", reason), zap.String("requestID", x.id), zap.Stack("stack"))
		if aborted = x.status != 0 || x.hijacked; !aborted {
			x.refuse(problem.ErrPanic)
		}
	}
	if x.slot {
		x.proxy.upstream.release()
	}
	x.settle(false)
	if x.span != nil {
		x.span.End(x.status)
	}
	if !x.hijacked {
		x.body.end()
		aborted = !x.drain(aborted)
		x.setWriteDeadline() // for what net/http still holds
	}
	limits := x.decision().Limits[:0]
	*x = exchange{proxy: x.proxy, values: x.values, ahead: x.ahead, before: x.before, fields: x.fields, buf: x.buf}
	x.answer[0].Decision.Limits = limits
	return aborted
}

// drain reads what the client is still sending, for a while: net/http would wait for it without a deadline. It reports whether
// the answer is whole and the connection in order.
func (x *exchange) drain(aborted bool) bool {
	if x.in.ProtoMajor != 1 || !x.body.unfinished() {
		return !aborted
	}
	defer func() { _ = x.in.Body.Close() }() // it reads up to the deadline
	if aborted || x.FlushError() != nil {
		return false
	}
	return x.closing || x.body.drain()
}

// decision is what the limiter decided.
func (x *exchange) decision() *decision.Decision { return &x.answer[0].Decision }

// setWriteDeadline gives the client the usual time for a piece of the answer.
func (x *exchange) setWriteDeadline() {
	_ = x.control.SetWriteDeadline(time.Now().Add(x.proxy.write)) // fails on a closed connection alone, as the write then does
}

// wrote ends the deadline of a piece. Over HTTP/2 one that passes resets the stream, even if nothing is being written.
func (x *exchange) wrote(err error) {
	if err != nil {
		x.writeErr = err
	}
	if x.in.ProtoMajor == 2 {
		_ = x.control.SetWriteDeadline(time.Time{})
	}
}

// WriteHeader implements http.ResponseWriter.
func (x *exchange) WriteHeader(status int) {
	if status < http.StatusOK { // a 101 does not come this way
		// 100 is said when the body is read. Clients of HTTP/1.0 know no interim answers.
		if status != http.StatusContinue && x.in.ProtoAtLeast(1, 1) {
			x.setWriteDeadline()
			x.ResponseWriter.WriteHeader(status)
			x.wrote(nil)
		}
		return
	}
	if x.status != 0 {
		return
	}
	x.status = status
	x.finishHeader(x.Header())
	x.body.answering()
	x.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter. A piece of a body is sent at once if there is more to come.
func (x *exchange) Write(p []byte) (int, error) {
	if x.fromUpstream {
		x.actual.body(p)
	}
	if x.length >= 0 && x.written+int64(len(p)) >= x.length {
		x.settle(true)
	}
	x.setWriteDeadline()
	n, err := x.ResponseWriter.Write(p)
	if x.written += int64(n); err == nil && x.written < x.length {
		err = x.control.Flush()
	}
	x.wrote(err)
	return n, err
}

// FlushError implements what http.ResponseController looks for.
func (x *exchange) FlushError() error {
	x.setWriteDeadline()
	err := x.control.Flush()
	x.wrote(err)
	return err
}

// Hijack implements http.Hijacker, for WebSockets.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := x.control.Hijack()
	if err != nil {
		return conn, rw, err
	}
	x.hijacked = true
	if x.tunnel != nil {
		context.AfterFunc(x.tunnel, func() { _ = conn.Close() })
	}
	early, err := rw.Peek(rw.Reader.Buffered())
	return &oneWay{conn, slices.Clone(early)}, rw, err
}

// oneWay is a hijacked connection without CloseWrite: a WebSocket is over as soon as one direction has ended.
type oneWay struct {
	net.Conn
	early []byte // what the client sent before the answer
}

// Read implements net.Conn.
func (c *oneWay) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	c.early = c.early[n:]
	return n, nil
}
