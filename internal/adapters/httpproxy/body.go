package httpproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// clientBody is a request's body, which may still be arriving. The client has the usual time for each piece until its answer
// begins, and the upstream to take each piece: from then on the two talk, and either may be silent. A gRPC call may be silent
// from its start.
//
// The Transport may read it after the exchange has ended, so it has memory of its own. A nil clientBody is no body.
type clientBody struct {
	from       io.Reader
	in         *http.Request
	control    *http.ResponseController
	timeout    time.Duration
	write      time.Duration
	trailer    http.Header // of the request that the upstream gets; nil if it has none
	giveUp     context.CancelCauseFunc
	patience   time.Duration // for the upstream to take a piece
	memory     *atomic.Int64 // that all bodies hold which are read ahead
	mostMemory int64         // that memory may be
	isAhead    bool          // readAhead has read
	ahead      []byte        // what of that is yet to be forwarded
	held       int64         // of memory, by this body

	mu      sync.Mutex
	untaken *time.Timer // ends the request when the upstream has not taken a piece in time; nil before the first piece
	patient bool        // no deadline for pieces
	reading bool        // a Read has begun
	ended   bool        // all was read
	closed  bool        // nothing more is read for the upstream
	// interrupted says that Close has ended a Read over HTTP/1. net/http takes that for a client that has left, and ends the
	// context of its request.
	interrupted bool
	err         error
}

func newClientBody(x *exchange) *clientBody {
	return &clientBody{
		from: x.in.Body, in: x.in, control: x.control, timeout: x.proxy.read, write: x.proxy.write, memory: &x.proxy.aheadMemory,
		mostMemory: x.proxy.mostAhead,
		patient:    strings.HasPrefix(x.in.Header.Get("Content-Type"), "application/grpc"),
	}
}

var errExchangeOver = errors.New("the request is read no further")

// Read implements io.Reader, for the Transport.
func (b *clientBody) Read(p []byte) (int, error) {
	if b.isAhead {
		if n, err := b.replay(p); n > 0 || err != nil {
			return n, err
		}
	}
	return b.readClient(p)
}

// readClient reads what the client sends.
func (b *clientBody) readClient(p []byte) (int, error) {
	if err := b.expect(); err != nil {
		return 0, err
	}
	n, err := b.from.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	if n > 0 {
		b.handOverLocked()
	}
	if err != nil {
		err = b.readAllLocked(err)
	}
	return n, err
}

// handOverLocked gives the upstream its time to take a piece, until the next Read, Close or the answer.
func (b *clientBody) handOverLocked() {
	switch {
	case b.patient || b.closed || b.giveUp == nil:
	case b.untaken == nil:
		b.untaken = time.AfterFunc(b.patience, b.notTaken)
	default:
		b.untaken.Reset(b.patience)
	}
}

// notTaken ends the request, unless the answer has just begun.
func (b *clientBody) notTaken() {
	b.mu.Lock()
	over := b.patient || b.closed
	b.mu.Unlock()
	if !over {
		b.giveUp(errUnread)
	}
}

// takenLocked ends the time of handOver.
func (b *clientBody) takenLocked() {
	if b.untaken != nil {
		b.untaken.Stop()
	}
}

// expect sets the deadline of the next piece.
func (b *clientBody) expect() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.takenLocked()
	if b.closed {
		return errExchangeOver
	}
	b.reading = true
	if b.patient {
		return nil
	}
	now := time.Now()
	if b.in.ProtoMajor == 1 {
		_ = b.control.SetWriteDeadline(now.Add(b.write)) // of a 100 Continue
	}
	_ = b.control.SetReadDeadline(now.Add(b.timeout)) // fails on a closed connection alone, as the read then does
	return nil
}

// readAllLocked is called with the error that ends the body, and returns the one that the Transport gets.
func (b *clientBody) readAllLocked(err error) error {
	if b.closed {
		return err
	}
	if errors.Is(err, io.EOF) {
		b.ended = true
		// net/http goes on to read, so that it sees a client that leaves. Silence must not be taken for that.
		_ = b.control.SetReadDeadline(time.Time{})
		if b.copyTrailer() {
			return err
		}
		err = errTrailer
	}
	if b.err == nil {
		b.err = err
	}
	return err
}

// errTrailer is the error of a body that ends in a trailer with a name that is none.
var errTrailer = errors.New("malformed trailer")

// Close implements io.Closer. The Transport calls it when the upstream has heard enough, and over HTTP/2 then waits for a Read
// to return.
func (b *clientBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.takenLocked()
	if b.ended || b.closed {
		return nil
	}
	b.closed = true
	if b.reading {
		b.interrupted = b.in.ProtoMajor == 1
		_ = b.control.SetReadDeadline(time.Unix(1, 0))
	}
	return nil
}

// requestEnded is called when the context of the client's request ends: the client has left, unless a Read is why. That one
// reports by itself how it failed.
func (b *clientBody) requestEnded() {
	b.mu.Lock()
	left := !b.reading && !b.interrupted
	b.mu.Unlock()
	if left {
		b.giveUp(context.Canceled)
	}
}

// answering is called when the answer begins.
func (b *clientBody) answering() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.takenLocked()
	b.patient = true
	if !b.ended && !b.closed && b.err == nil {
		_ = b.control.SetReadDeadline(time.Time{})
	}
}

// end ends every read, and bounds how long the rest of what the client is sending is read.
func (b *clientBody) end() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.takenLocked()
	b.closed = true
	b.letGo(0)
	if !b.ended && b.in.ProtoMajor == 1 {
		_ = b.control.SetReadDeadline(time.Now().Add(linger))
	}
}

// drain reads the rest of a small body, so that the connection can be used again, and reports whether it did. net/http would do
// it after the handler, and take a rest that comes late for the next request.
func (b *clientBody) drain() bool {
	_, err := io.CopyN(io.Discard, b.in.Body, drained+1)
	return errors.Is(err, io.EOF)
}

// broken reports whether the body cannot be read to its end.
func (b *clientBody) broken() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed || b.err != nil
}

// wasInterrupted reports whether the end of the request's context says nothing about the client.
func (b *clientBody) wasInterrupted() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.interrupted
}

// unfinished reports whether the client is still sending.
func (b *clientBody) unfinished() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.ended
}

// failure returns how the client failed to send its body, as a problem's error; nil if it did not fail.
func (b *clientBody) failure() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var network net.Error
	switch {
	case b.err == nil:
		return nil
	case errors.As(b.err, &network) && network.Timeout():
		return problem.ErrClientTooSlow
	default:
		return problem.Input(problem.ErrMalformed, "body", "is cut off or malformed")
	}
}

// noBody is the body of a request without one that must not be sent twice: without any, the Transport would send a GET again
// whose connection broke. Requests share it.
type noBody struct{}

func (noBody) Read([]byte) (int, error)         { return 0, io.EOF }
func (noBody) WriteTo(io.Writer) (int64, error) { return 0, nil } // so that it is copied without a buffer
func (noBody) Close() error                     { return nil }

// copyTrailer copies the trailer of a request, which is there once the body has been read. It reports false if the trailer has
// a name that is none: net/http takes those with spaces.
func (b *clientBody) copyTrailer() bool {
	for name, values := range b.in.Trailer {
		if !validName(name) {
			return false
		}
		if b.trailer != nil && forwardsTrailer(b.in, name) {
			b.trailer[name] = values
		}
	}
	return true
}
