package upstream

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// pieceSize is how much of a body is in memory at once, in each direction.
const pieceSize = 32 << 10

// chunkRoom is what a chunk's size in hex takes at most, with its CRLF.
const chunkRoom = 8 + 2

var pieces = sync.Pool{New: func() any { b := make([]byte, chunkRoom+pieceSize+2); return &b }}

// Piece returns memory for a piece of a body; give it back with PutPiece.
func Piece() *[]byte { return pieces.Get().(*[]byte) }

// PutPiece gives back what Piece returned.
func PutPiece(b *[]byte) { pieces.Put(b) }

// framing are the lines that say how long the body is, and the end of the header.
func framing(r *Request) string {
	switch r.Length {
	case NoBody:
		return "\r\n"
	case Chunked:
		return "Transfer-Encoding: chunked\r\n\r\n"
	default:
		return "Content-Length: " + strconv.Itoa(r.Length) + "\r\n\r\n"
	}
}

func appendBody(dst []byte, r *Request) ([]byte, error) {
	if r.Length == 0 {
		return dst, nil
	}
	n := len(dst)
	dst = append(dst, make([]byte, r.Length)...)
	if _, err := io.ReadFull(r.Body, dst[n:]); err != nil {
		return dst, bodyError(err)
	}
	return dst, nil
}

func bodyError(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrClient, err)
}

// sender sends a request's body while the answer is read.
type sender struct {
	client *Client
	conn   *conn
	req    *Request
	left   int // of a body of known length
	// stopped is set when nobody wants the rest: what fails then is no fault of the client's.
	stopped atomic.Bool
	ended   atomic.Bool
	done    chan struct{}
	whole   bool  // the body was sent to its end; read it when done is closed
	failed  error // of the client, likewise
}

func startSender(c *Client, cn *conn, r *Request) *sender {
	s := &sender{client: c, conn: cn, req: r, left: r.Length, done: make(chan struct{})}
	cn.wire.readUntil(time.Time{})
	go s.run()
	return s
}

func (s *sender) run() {
	defer close(s.done)
	defer s.ended.Store(true)
	err := s.send()
	switch {
	case err == nil:
		s.whole = true
		s.conn.wire.readUntil(time.Now().Add(s.client.cfg.Timeout))
	case errors.Is(err, ErrClient):
		if !s.stopped.Load() {
			s.failed = err
		}
		_ = s.conn.Close() // the server must not take half a body for a whole one
	default:
		// The server stopped reading. It may have answered before, so the answer is still waited for.
		s.conn.wire.readUntil(time.Now().Add(s.client.cfg.Timeout))
	}
}

// send copies piece by piece. The server has the usual time for each.
func (s *sender) send() error {
	room := Piece()
	defer PutPiece(room)
	for s.left != 0 {
		piece := (*room)[chunkRoom : chunkRoom+pieceSize]
		if s.left > 0 {
			piece = piece[:min(len(piece), s.left)]
		}
		n, err := s.req.Body.Read(piece)
		if n > 0 {
			if werr := s.sendPiece(*room, n); werr != nil {
				return werr
			}
		}
		if err == io.EOF && s.left <= 0 {
			break
		}
		if err != nil {
			return bodyError(err)
		}
	}
	if s.req.Length == Chunked {
		return s.client.write(s.conn, s.lastChunk((*room)[:0]))
	}
	return nil
}

func (s *sender) sendPiece(room []byte, n int) error {
	if s.req.Length != Chunked {
		s.left -= n
		return s.client.write(s.conn, room[chunkRoom:chunkRoom+n])
	}
	// The size goes right before the piece, so that the chunk is one write.
	var size [chunkRoom]byte
	head := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
	from := chunkRoom - len(head)
	copy(room[from:], head)
	end := chunkRoom + n + copy(room[chunkRoom+n:], "\r\n")
	return s.client.write(s.conn, room[from:end])
}

func (s *sender) lastChunk(dst []byte) []byte {
	dst = append(dst, "0\r\n"...)
	if s.req.Trailer != nil {
		dst = s.req.Trailer(dst)
	}
	return append(dst, "\r\n"...)
}

func (s *sender) finished() bool { return s.ended.Load() }

// stop ends the sending, waits for its end, and reports whether the whole body was sent.
func (s *sender) stop() bool {
	if !s.finished() {
		s.stopped.Store(true)
		_ = s.conn.Close()
		s.req.StopBody()
	}
	<-s.done
	return s.whole
}
