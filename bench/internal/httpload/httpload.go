// Package httpload is a minimal HTTP/1.1 client over connections that stay open: the load generator shares its machine
// with what it measures, so it does little work. It reads answers with a Content-Length; any other answer is an error.
package httpload

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/load"
)

// Answer is one HTTP response. Its bytes are valid until the next call.
type Answer struct {
	Status int
	Head   []byte // the status line and the header, without the empty line
	Body   []byte
}

// Exchange is a request and the meaning of its answer.
type Exchange struct {
	// AppendRequest appends one whole request.
	AppendRequest func(dst []byte, rng *rand.Rand) []byte
	Classify      func(Answer) (load.Outcome, error)
}

// Connections are the open connections to one server. Close closes them.
type Connections struct {
	addr string
	mu   sync.Mutex
	open []*conn
}

// NewConnections connects to nothing yet.
func NewConnections(addr string) *Connections { return &Connections{addr: addr} }

// NewCall opens a connection for one worker.
func (c *Connections) NewCall(x Exchange) (load.Call, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	var request []byte
	return func(rng *rand.Rand) (load.Outcome, error) {
		request = x.AppendRequest(request[:0], rng)
		answer, err := conn.roundTrip(request)
		if err != nil {
			return load.Outcome{}, err
		}
		return x.Classify(answer)
	}, nil
}

// Do sends one request on a connection of its own and returns the answer.
func (c *Connections) Do(request []byte) (Answer, error) {
	conn, err := c.dial()
	if err != nil {
		return Answer{}, err
	}
	return conn.roundTrip(request)
}

// Close closes all connections.
func (c *Connections) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, conn := range c.open {
		errs = append(errs, conn.Close())
	}
	c.open = nil
	return errors.Join(errs...)
}

// deadline ends an exchange with a server that hangs; no run is as long.
const deadline = 10 * time.Minute

func (c *Connections) dial() (*conn, error) {
	raw, err := net.DialTimeout("tcp", c.addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	if err := raw.SetDeadline(time.Now().Add(deadline)); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	conn := &conn{Conn: raw, buf: make([]byte, 8192)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(c.open, conn)
	return conn, nil
}

type conn struct {
	net.Conn
	buf []byte
}

var (
	headEnd       = []byte("\r\n\r\n")
	contentLength = []byte("\r\nContent-Length: ")
)

func (c *conn) roundTrip(request []byte) (Answer, error) {
	if _, err := c.Write(request); err != nil {
		return Answer{}, err
	}
	n, want, head := 0, -1, 0
	for want < 0 || n < want {
		if n == len(c.buf) {
			c.buf = append(c.buf, make([]byte, len(c.buf))...)
		}
		m, err := c.Read(c.buf[n:])
		if err != nil {
			return Answer{}, fmt.Errorf("read answer: %w", err)
		}
		n += m
		if want >= 0 {
			continue
		}
		if head = bytes.Index(c.buf[:n], headEnd); head >= 0 {
			length, err := bodyLength(c.buf[:head])
			if err != nil {
				return Answer{}, err
			}
			want = head + len(headEnd) + length
		}
	}
	if n > want {
		return Answer{}, fmt.Errorf("%d bytes follow the answer", n-want)
	}
	status, err := statusOf(c.buf[:head])
	return Answer{Status: status, Head: c.buf[:head], Body: c.buf[head+len(headEnd) : n]}, err
}

func bodyLength(head []byte) (int, error) {
	at := bytes.Index(head, contentLength)
	if at < 0 {
		return 0, fmt.Errorf("the answer has no Content-Length: %q", head)
	}
	value, _, _ := bytes.Cut(head[at+len(contentLength):], []byte("\r"))
	return strconv.Atoi(string(value))
}

// statusOf reads "HTTP/1.1 200 OK".
func statusOf(head []byte) (int, error) {
	if len(head) < 12 {
		return 0, fmt.Errorf("not a status line: %q", head)
	}
	return strconv.Atoi(string(head[9:12]))
}
