package httpfiber

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/upstream"
)

// keepsAnswerHeader reports whether a header of the upstream's answer reaches the client. Hop-by-hop ones were for us,
// and the length of the body is said anew. Where a limit decided, its headers stand instead of any of the same names.
func keepsAnswerHeader(name []byte, limited bool) bool {
	switch string(name) { // fasthttp spells them so
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Te", "Trailer", "Transfer-Encoding",
		"Upgrade", "Content-Length", "X-Request-Id":
		return false
	case "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Retry-After", "X-Ratelimit-Store",
		"X-Ratelimit-Shadow", "Ratelimit", "Ratelimit-Policy":
		return !limited
	}
	return true
}

// copyAnswerHeader gives the client the upstream's header.
func copyAnswerHeader(to, from *fasthttp.ResponseHeader, limited bool) {
	to.SetStatusCode(from.StatusCode())
	to.SetNoDefaultContentType(true)
	var hops [][]byte
	for _, value := range from.PeekAll(fasthttp.HeaderConnection) {
		listed(value, func(member []byte) { hops = append(hops, member) })
	}
	for name, value := range from.All() {
		if keepsAnswerHeader(name, limited) && !isListed(hops, name) {
			to.AddBytesKV(name, value)
		}
	}
}

func isListed(list [][]byte, name []byte) bool {
	for _, member := range list {
		if equalFold(member, string(name)) {
			return true
		}
	}
	return false
}

// answerBody streams the body of an answer to the client, piece by piece as it comes.
type answerBody struct {
	answer  *upstream.Answer
	to      *fasthttp.ResponseHeader
	conn    net.Conn
	timeout time.Duration // for the client to take a piece
	log     *zap.Logger
	id      string
	direct  bool // past fasthttp's buffer
}

// Read implements io.Reader.
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.answer.Read(p)
	if errors.Is(err, io.EOF) {
		b.copyTrailer()
	}
	_ = b.conn.SetWriteDeadline(time.Now().Add(b.timeout)) // fails on a closed connection alone, as the write then does
	return n, err
}

// SupportsBodyWriteTo makes fasthttp call WriteTo.
func (b *answerBody) SupportsBodyWriteTo() bool { return true }

// WriteTo gives each piece to the client at once. fasthttp flushes after each chunk, but would hold back the pieces of a
// body of known length until its buffer is full: so these go past it, the header being on the wire already.
func (b *answerBody) WriteTo(w io.Writer) (int64, error) {
	if b.direct {
		w = b.conn
	}
	room := upstream.Piece()
	defer upstream.PutPiece(room)
	var written int64
	for {
		n, err := b.Read(*room)
		if n > 0 {
			m, werr := w.Write((*room)[:n])
			written += int64(m)
			if werr != nil {
				return written, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return written, nil
		}
		if err != nil {
			if !errors.Is(err, upstream.ErrClientGone) {
				b.log.Warn("The upstream's answer broke off, and so does ours", zap.String("requestID", b.id), zap.Error(err))
			}
			return written, err
		}
	}
}

// toOldClient answers a client of HTTP/1.0, which knows no chunks: the end of the connection ends the body. fasthttp
// would send chunks all the same.
func (b *answerBody) toOldClient(ctx *fasthttp.RequestCtx) {
	defer func() { _ = b.Close() }()
	ctx.SetConnectionClose()
	_ = b.conn.SetWriteDeadline(time.Now().Add(b.timeout))
	if _, err := b.conn.Write(ctx.Response.Header.Header()); err == nil {
		b.direct = true
		_, _ = b.WriteTo(nil) // whose failure the client sees by itself
	}
}

func (b *answerBody) copyTrailer() {
	for name := range b.answer.Header.Trailers() {
		for _, value := range b.answer.Header.PeekAll(string(name)) {
			b.to.AddBytesKV(name, value)
		}
	}
}

// Close implements io.Closer.
func (b *answerBody) Close() error {
	if b.answer != nil {
		b.answer.Close()
		b.answer = nil
	}
	return nil
}

// noBody is the body of an answer that has a length and no body: to HEAD.
type noBody struct{}

func (noBody) Read([]byte) (int, error) { return 0, io.EOF }
