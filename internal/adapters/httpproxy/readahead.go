package httpproxy

import (
	"bytes"
	"io"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// firstAhead is the memory that a body gets before it arrives: its Content-Length is only what the client says.
const firstAhead = 16 << 10

// readAhead reads the body before it is forwarded, if it is at most policy.MaxCostBody, and returns it. It returns nil if the body is
// larger, or cannot be read to its end; see failure. What was read is forwarded all the same, before the rest. It reads once, and
// returns the same when it is called again.
//
// A client that asks before it sends its body gets its 100 Continue. It has the usual time for each piece. A gRPC call is not read: it may
// be waiting for an answer.
func (b *clientBody) readAhead() []byte {
	if b == nil || b.patient || b.in.ContentLength > policy.MaxCostBody {
		return nil
	}
	if !b.isAhead {
		most := b.in.ContentLength
		if most < 0 {
			most = policy.MaxCostBody + 1
		}
		b.isAhead = true
		if !b.hold(most) {
			return nil
		}
		buf := bytes.NewBuffer(make([]byte, 0, min(max(b.in.ContentLength, bytes.MinRead)+bytes.MinRead, firstAhead)))
		_, _ = buf.ReadFrom(io.LimitReader(clientReads{b}, policy.MaxCostBody+1)) // Read notes its error
		b.ahead = buf.Bytes()
		b.letGo(int64(len(b.ahead)))
		if b.unfinished() {
			// Over HTTP/2 a deadline that passes ends the body, even if nothing is being read.
			_ = b.control.SetReadDeadline(time.Time{}) // fails on a closed connection alone
		}
	}
	if b.unfinished() || b.failure() != nil || len(b.ahead) > policy.MaxCostBody {
		return nil
	}
	return b.ahead
}

// hold reports whether so much memory is free for the body, and takes it.
func (b *clientBody) hold(n int64) bool {
	if b.memory.Add(n) > b.mostMemory {
		b.memory.Add(-n)
		return false
	}
	b.held = n
	return true
}

// letGo frees the memory of the body but for the part that is left. When no more than that is held, it does nothing.
func (b *clientBody) letGo(left int64) {
	if b.held > left {
		b.memory.Add(left - b.held)
		b.held = left
	}
}

// clientReads reads what the client sends.
type clientReads struct{ body *clientBody }

// Read implements io.Reader.
func (r clientReads) Read(p []byte) (int, error) { return r.body.readClient(p) }

// replace makes what is forwarded another body than the one that readAhead has returned.
func (b *clientBody) replace(with []byte) { b.ahead = with }

// length is the length of the body that is forwarded, given that of the client's; -1 if it is not known.
func (b *clientBody) length(said int64) int64 {
	if said >= 0 && b.isAhead && !b.unfinished() {
		return int64(len(b.ahead))
	}
	return said
}

// replay reads what was read ahead, and then its end; 0 and no error if the client has more to send.
func (b *clientBody) replay(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.takenLocked()
	switch {
	case b.closed:
		return 0, errExchangeOver
	case len(b.ahead) > 0:
		n := copy(p, b.ahead)
		if b.ahead = b.ahead[n:]; len(b.ahead) == 0 {
			b.ahead = nil
			b.letGo(0)
		}
		b.handOverLocked()
		return n, nil
	case b.ended:
		b.copyTrailer() // whose names are valid: what failed is not forwarded
		return 0, io.EOF
	default:
		return 0, nil
	}
}
