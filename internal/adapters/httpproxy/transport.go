package httpproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// connectTimeout bounds a new connection to the upstream, and again its TLS handshake.
	connectTimeout = 3 * time.Second
	// maxAnswerHeader is the largest header of an upstream's answer.
	maxAnswerHeader = 16 << 10
	// pingAfter is the silence after which a connection of HTTP/2 is tried, so that one which is dead is found, and pingTimeout the
	// time for the answer. It is long, since without one all requests of the connection break off, and an upstream can be slow.
	pingAfter, pingTimeout = 15 * time.Second, 15 * time.Second
)

var (
	// errNoSlot is the error of a request for which no connection was free in time.
	errNoSlot = errors.New("no connection to the upstream was free in time")
	// errUnread is the error of a request whose body the upstream did not take in time.
	errUnread = errors.New("the upstream neither reads the request's body nor answers")
	// errConnect is in the error of a connection that could not be made.
	errConnect = errors.New("the upstream cannot be reached")
)

// upstream asks the server behind the proxy. It is safe for concurrent use.
type upstream struct {
	origin    origin
	transport *http.Transport
	timeout   time.Duration
	slots     chan struct{}
	answered  func(status int, took time.Duration) // nil is not called
	http2     atomic.Bool                          // the last answer was one of HTTP/2
}

func newUpstream(cfg Config) (*upstream, error) {
	to, err := cfg.parse()
	if err != nil {
		return nil, err
	}
	var protocols http.Protocols
	protocols.SetHTTP1(to.scheme != schemeH2C)
	protocols.SetHTTP2(to.scheme == schemeHTTPS)
	protocols.SetUnencryptedHTTP2(to.scheme == schemeH2C)
	u := &upstream{
		origin: to, timeout: cfg.Timeout, slots: make(chan struct{}, cfg.MaxConns),
		transport: &http.Transport{
			DialContext:            dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    connectTimeout,
			ResponseHeaderTimeout:  cfg.Timeout,
			MaxResponseHeaderBytes: maxAnswerHeader,
			MaxConnsPerHost:        cfg.MaxConns,
			MaxIdleConnsPerHost:    cfg.MaxConns,
			IdleConnTimeout:        cfg.IdleTimeout,
			DisableCompression:     true, // the client says what it takes
			Protocols:              &protocols,
			HTTP2: &http.HTTP2Config{
				SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: cfg.Timeout,
			},
		},
	}
	u.http2.Store(to.scheme == schemeH2C)
	return u, nil
}

// dial connects to the upstream, within connectTimeout.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, errors.Join(errConnect, err)
	}
	return &upstreamConn{Conn: c}, nil // without CloseWrite, as oneWay
}

// upstreamConn knows whether somebody waits for its bytes.
type upstreamConn struct {
	net.Conn
	reading, closed atomic.Bool
}

// Read implements net.Conn.
func (c *upstreamConn) Read(p []byte) (int, error) {
	c.reading.Store(true)
	defer c.reading.Store(false)
	return c.Conn.Read(p)
}

// Close implements net.Conn.
func (c *upstreamConn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// waitForReader returns once the Transport waits for bytes of a connection that it uses again, or has closed it, which it reports. It
// closes one on which bytes came that no request asked for, but offers the connection to the next request before it looks. That request
// would get these bytes as its answer.
func waitForReader(ctx context.Context, used net.Conn) (closed bool) {
	if secure, ok := used.(*tls.Conn); ok {
		used = secure.NetConn()
	}
	c, ok := used.(*upstreamConn)
	for ok && !c.reading.Load() && !c.closed.Load() && ctx.Err() == nil {
		runtime.Gosched()
	}
	return ok && c.closed.Load()
}

// send sends a request over HTTP/1. One without a body is sent again if its connection turned out to be closed before.
func (u *upstream) send(req *http.Request) (*http.Response, error) {
	ctx, closed := req.Context(), false
	gotConn := func(info httptrace.GotConnInfo) { closed = info.Reused && waitForReader(ctx, info.Conn) }
	if trace := httptrace.ContextClientTrace(ctx); trace != nil { // ReverseProxy makes one for each request
		trace.GotConn = gotConn
	} else {
		req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: gotConn}))
	}
	for {
		res, err := u.transport.RoundTrip(req)
		_, empty := req.Body.(noBody)
		if again := err != nil && closed && (req.Body == nil || empty); !again {
			return res, err
		}
	}
}

// RoundTrip implements http.RoundTripper. The answer's exchange holds a slot, which its end frees.
func (u *upstream) RoundTrip(req *http.Request) (*http.Response, error) {
	x := exchangeOf(req)
	if err := u.acquire(req.Context()); err != nil {
		return nil, err
	}
	x.slot = true
	began := time.Now()
	send := u.send
	if u.http2.Load() {
		send = u.transport.RoundTrip
	}
	res, err := send(req)
	status := 0
	if err == nil {
		status = res.StatusCode
		if isHTTP2 := res.ProtoMajor == 2; isHTTP2 != u.http2.Load() {
			u.http2.Store(isHTTP2)
		}
	}
	if u.answered != nil {
		u.answered(status, time.Since(began))
	}
	return res, err
}

// acquire waits for a slot: without one, the Transport would wait for a connection without bound.
func (u *upstream) acquire(ctx context.Context) error {
	select {
	case u.slots <- struct{}{}:
		return nil
	default:
	}
	patience := time.NewTimer(u.timeout)
	defer patience.Stop()
	select {
	case u.slots <- struct{}{}:
		return nil
	case <-patience.C:
		return errNoSlot
	case <-ctx.Done():
		return ctx.Err()
	}
}

// release frees a slot.
func (u *upstream) release() { <-u.slots }

// close closes the connections that are not in use.
func (u *upstream) close() { u.transport.CloseIdleConnections() }

// timedOut reports whether an upstream took too long to answer, and not to be connected to.
func timedOut(err error) bool {
	if errors.Is(err, errNoSlot) || errors.Is(err, errUnread) {
		return true
	}
	var network net.Error
	return errors.As(err, &network) && network.Timeout() && !errors.Is(err, errConnect) &&
		err.Error() != "net/http: TLS handshake timeout" // whose type net/http does not export
}
