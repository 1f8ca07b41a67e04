package upstream

import (
	"bufio"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

// Request is one request, sent by Do.
type Request struct {
	// Head is the request line and the header, without those that frame the body, each line with its CRLF. Do writes
	// behind it, and keeps the memory.
	Head []byte
	// NoAnswerBody is set for HEAD.
	NoAnswerBody bool
	// Length of the body: Chunked if it is not known, NoBody if there is none, not even an empty one.
	Length int
	// Body is read to its end and not closed. It may be read after Do has returned, until the answer is closed.
	Body io.Reader
	// Trailer appends the lines of the trailer, once a chunked body has been read; nil: there is none.
	Trailer func(dst []byte) []byte
	// StopBody makes a Read of Body that is waiting return. Needed if the Body may wait.
	StopBody func()
	// Client is the connection of the client, which ends the exchange when it is closed; nil: nobody looks.
	Client syscall.RawConn
}

// Lengths that are none.
const (
	Chunked = -1
	NoBody  = -2
)

// smallBody is sent in one piece with the head, read before a connection is taken: a slow client holds none.
const smallBody = 16 << 10

// Do sends a request and returns as soon as the header of the answer is there; the body may then still be on its way
// to the server. The answer must be closed. Errors wrap those of this package.
func (c *Client) Do(r *Request) (*Answer, error) {
	out := append(r.Head, framing(r)...)
	inOne := r.Length >= 0 && r.Length <= smallBody
	if inOne {
		var err error
		if out, err = appendBody(out, r); err != nil {
			return nil, err
		}
	}
	r.Head = out
	cn, err := c.connect(time.Now().Add(c.cfg.Timeout))
	if err != nil {
		return nil, err
	}
	a := answers.Get().(*Answer)
	a.client, a.conn = c, cn
	cn.wire.client, cn.wire.ended = r.Client, nil
	if err := c.write(cn, out); err != nil {
		a.broken = true
		a.Close()
		return nil, failure(err)
	}
	if inOne || r.Length == NoBody {
		cn.wire.readUntil(time.Now().Add(c.cfg.Timeout))
	} else {
		a.sending = startSender(c, cn, r)
	}
	if err := a.readHeader(r.NoAnswerBody); err != nil {
		a.broken = true
		err = a.cause(err)
		a.Close()
		return nil, err
	}
	return a, nil
}

// write gives the server the usual time to take p.
func (c *Client) write(cn *conn, p []byte) error {
	if err := cn.SetWriteDeadline(time.Now().Add(c.cfg.Timeout)); err != nil {
		return err
	}
	_, err := cn.Write(p)
	return err
}

// Answer is what the server says. Read reads the body.
type Answer struct {
	// Header may be read, trailers included once Read has returned io.EOF.
	Header *fasthttp.ResponseHeader

	client  *Client
	conn    *conn
	sending *sender
	res     fasthttp.Response
	body    io.Reader
	ended   bool // the body was read to its end
	broken  bool // the connection cannot be used again
}

var answers = sync.Pool{New: func() any { return new(Answer) }}

// readHeader passes over answers that are not the last, such as 103.
func (a *Answer) readHeader(noBody bool) error {
	a.res.StreamBody, a.res.SkipBody = true, noBody
	a.Header = &a.res.Header
	if err := a.res.ReadLimitBody(a.conn.in, 0); err != nil {
		return err
	}
	a.conn.wire.readUntil(time.Time{}) // the body may take longer
	a.body = a.res.BodyStream()
	a.ended = a.body == nil
	return nil
}

// Length is the length of the body: Chunked if it is not known, NoBody where an answer has none.
func (a *Answer) Length() int {
	switch n := a.Header.ContentLength(); {
	case a.body == nil:
		return NoBody
	case n < 0:
		return Chunked
	default:
		return n
	}
}

// Here reports whether the whole body has arrived, so that reading it waits for nothing.
func (a *Answer) Here() bool { return a.Length() >= 0 && a.conn.in.Buffered() >= a.Length() }

// Started reports whether something of the body has arrived.
func (a *Answer) Started() bool { return a.conn.in.Buffered() > 0 }

// Sending reports whether the request's body is still on its way.
func (a *Answer) Sending() bool { return a.sending != nil && !a.sending.finished() }

// Read reads the body. It ends in io.EOF only if the body is whole.
func (a *Answer) Read(p []byte) (int, error) {
	if a.ended {
		return 0, io.EOF
	}
	n, err := a.body.Read(p)
	switch {
	case err == io.EOF: //nolint:errorlint // one that is wrapped is a body that broke off
		a.ended = true
	case err != nil:
		a.broken = true
		err = a.cause(err)
	}
	return n, err
}

// cause is the reason behind an error: what ended the wait, or what the client did, before what the network says.
func (a *Answer) cause(err error) error {
	if a.sending != nil {
		a.sending.stop()
		if a.sending.failed != nil {
			return a.sending.failed
		}
	}
	if a.conn.wire.ended != nil {
		err = a.conn.wire.ended
	}
	return failure(err)
}

// Close ends the exchange. What the client still sends is not read. The answer must not be used afterwards.
func (a *Answer) Close() {
	whole := a.sending == nil || a.sending.stop()
	_ = a.res.CloseBodyStream() // it belongs to fasthttp, and cannot fail
	a.conn.wire.client = nil
	// Bytes that nobody asked for would be taken for the next answer.
	if whole && a.ended && !a.broken && !a.closes() && a.conn.in.Buffered() == 0 {
		a.client.pool.put(a.conn)
	} else {
		a.client.pool.drop(a.conn)
	}
	a.res.Reset()
	a.client, a.conn, a.sending, a.body, a.ended, a.broken = nil, nil, nil, nil, false, false
	answers.Put(a)
}

// closes reports whether the server ends the connection after this answer: it says so, or only the end of the
// connection ends the body.
func (a *Answer) closes() bool {
	return a.Header.ConnectionClose() || a.body != nil && a.Header.ContentLength() < Chunked ||
		a.Header.StatusCode() == fasthttp.StatusSwitchingProtocols
}

// Tunnel hands over the connection of an answer whose status is 101, for bytes in both directions. The caller closes
// the answer afterwards, and with it the connection.
func (a *Answer) Tunnel() (in *bufio.Reader, out io.WriteCloser) {
	a.conn.wire.client = nil
	_ = a.conn.SetWriteDeadline(time.Time{})
	return a.conn.in, a.conn
}
