package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// Errors of an exchange. Nothing about them tells whether the server has seen the request.
var (
	// ErrUnavailable means that the server refused the connection, closed it, or sent what is no answer.
	ErrUnavailable = errors.New("the upstream does not answer as it should")
	// ErrTimeout means that no connection or no answer came in time.
	ErrTimeout = errors.New("the upstream does not answer in time")
	// ErrClient wraps what reading the request's body returned: the failure is the client's.
	ErrClient = errors.New("the request's body cannot be read")
	// ErrClientGone means that the client closed its connection while the answer was awaited.
	ErrClientGone = errors.New("the client has gone")
)

// connectTimeout is how long a connection may take to open, TLS included: less than the time for the answer, so that
// a dead host is told from a slow answer.
const connectTimeout = 5 * time.Second

// Config says which server is asked. All fields but TLS are needed.
type Config struct {
	// Addr is host:port.
	Addr string
	// TLS is nil for plain HTTP.
	TLS *tls.Config
	// Timeout is how long a request waits for a connection, and how long the server may take from the end of the
	// request, or from the last piece of its body, to the header of its answer.
	Timeout time.Duration
	// MaxConns is the most connections at once, idle ones included. Further requests wait.
	MaxConns int
	// IdleTimeout is how long an unused connection is kept.
	IdleTimeout time.Duration
}

// Client asks one server. Make it with New; safe for concurrent use.
type Client struct {
	cfg    Config
	dialer net.Dialer
	pool   *pool
}

// New opens nothing: connections are opened as they are needed.
func New(cfg Config) *Client {
	return &Client{cfg: cfg, pool: newPool(cfg.MaxConns, cfg.IdleTimeout)}
}

// Close closes the idle connections; those in use are closed after their exchange.
func (c *Client) Close() { c.pool.close() }

// Conns is how many connections are open, in use or idle.
func (c *Client) Conns() int { return c.pool.size() }

// connect returns a connection that nothing has happened to since it was last used, or a new one. It holds a slot
// until it is put back or dropped.
func (c *Client) connect(until time.Time) (*conn, error) {
	if !c.pool.acquire(until) {
		return nil, ErrTimeout
	}
	for {
		idle := c.pool.pop()
		if idle == nil {
			break
		}
		if idle.wire.untouched() {
			return idle, nil
		}
		_ = idle.Close()
	}
	fresh, err := c.dial(until)
	if err != nil {
		c.pool.release()
		return nil, err
	}
	return fresh, nil
}

func (c *Client) dial(until time.Time) (*conn, error) {
	if soon := time.Now().Add(connectTimeout); soon.Before(until) {
		until = soon
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	tcp, err := c.dialer.DialContext(ctx, "tcp", c.cfg.Addr)
	if err != nil {
		return nil, failure(err)
	}
	w := newWire(tcp)
	if c.cfg.TLS == nil {
		return newConn(w, w), nil
	}
	secure := tls.Client(w, c.cfg.TLS)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = tcp.Close()
		return nil, failure(err)
	}
	return newConn(w, secure), nil
}

// failure tells a time that ran out from other failures of the network, and keeps the cause for the log.
func failure(err error) error {
	var network net.Error
	if errors.Is(err, ErrClientGone) || errors.Is(err, ErrTimeout) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network) && network.Timeout() {
		return fmt.Errorf("%w: %v", ErrTimeout, err) //nolint:errorlint // its causes are for the log alone
	}
	return fmt.Errorf("%w: %v", ErrUnavailable, err) //nolint:errorlint // not wrapped: an io.EOF in it is no end of a body
}
