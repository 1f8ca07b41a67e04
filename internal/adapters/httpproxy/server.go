// Package httpproxy is the data plane in front of an upstream: a reverse proxy that decides each request before it forwards it.
//
// It is a server of net/http with httputil.ReverseProxy, for HTTP/1.1 and HTTP/2, with TLS and without. What it promises:
//
//   - A request is decided exactly once, for one normal form of its path and one address of its client, and the upstream gets
//     exactly that path. What servers may read in different ways is refused.
//   - A request is sent once. What may have reached the upstream is never sent again.
//   - A request that waits for its turn, or holds a permit of a concurrency limit, does so until its exchange ends, however that ends,
//     and no longer.
//   - A request whose answer reports what it has cost is settled once, however its exchange ends. The answer passes as it comes.
//   - Bodies run both ways as long as they like, with a deadline for each piece. Only a body in which a policy looks for an estimate, or
//     which is to be changed, is read before it is forwarded, up to policy.MaxCostBody.
//
// Header fields are forwarded in no particular order, under the names that Go's net/http spells.
package httpproxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/dataplane"
	"github.com/velocity-limiter/velocity/internal/web/keyvalue"
	"github.com/velocity-limiter/velocity/internal/web/listener"
)

const (
	// maxHeader is the largest header of a request; net/http allows 4 KiB more over HTTP/1.
	maxHeader = 8 << 10
	// maxStreams bounds the requests at once of one connection of HTTP/2.
	maxStreams = 128
	// lateGrace is the time for connections to send their first request once the server has stopped accepting.
	lateGrace = time.Second
	// endGrace is the time for requests whose connection has ended to settle what they cost.
	endGrace = time.Second
)

// API is the decision API, which answers at its own paths before any is forwarded. The zero value has no path.
type API struct {
	Handler http.Handler
	// MaxBody is the largest body of each path.
	MaxBody map[string]int
}

// Server is the data plane in front of an upstream. Make it with New.
type Server struct {
	cfg      dataplane.Config
	http     *http.Server
	conns    *listener.Conns
	proxy    *proxy
	log      *zap.Logger
	draining atomic.Bool
	useTLS   bool
}

// New builds the data plane in front of an upstream. permits are those that limiter grants. api needs cfg.APIToken. New opens
// nothing.
func New(
	cfg dataplane.Config, upstream Config, limiter ports.Limiter, permits ports.Permits, api API, log *zap.Logger,
) (*Server, error) {
	if err := errors.Join(cfg.Validate(), upstream.Validate()); err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.TLS()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, conns: listener.New(cfg.MaxConns, log), log: log, useTLS: tlsConfig != nil}
	if s.proxy, err = newProxy(cfg, upstream, limiter, permits, api, log); err != nil {
		return nil, err
	}
	s.proxy.draining = &s.draining
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:                      s.proxy,
		TLSConfig:                    tlsConfig,
		Protocols:                    &protocols,
		ReadHeaderTimeout:            cfg.ReadTimeout,
		IdleTimeout:                  cfg.IdleTimeout,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true, // it answers OPTIONS * undecided
		ErrorLog:                     zap.NewStdLog(log.WithOptions(zap.IncreaseLevel(zap.FatalLevel))),
		ConnState:                    connState,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams,
			SendPingTimeout:      cfg.IdleTimeout,
			PingTimeout:          cfg.WriteTimeout,
			WriteByteTimeout:     cfg.WriteTimeout,
		},
	}
	s.http.RegisterOnShutdown(s.proxy.endTunnels)
	return s, nil
}

// connState follows a connection. Deadlines for writing are set by answers, each by itself: one that is left would end the
// answer that net/http makes to a request which is none.
func connState(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateActive:
		listener.Begun(c)
	case http.StateIdle:
		_ = c.SetWriteDeadline(time.Time{}) // fails on a closed connection alone
	default:
	}
}

// VerifyTokens has the tokens of requests verified, for keys and conditions by their claims. It is for the time before Serve.
func (s *Server) VerifyTokens(t keyvalue.Tokens) { s.proxy.claims = t }

// Trace has the tracer record each request. It is for the time before Serve; nil records nothing.
func (s *Server) Trace(t ports.Tracer) { s.proxy.tracer = t }

// OnUpstream has f called with the status of each answer of the upstream, 0 where there was none, and the time to its
// header. It is for the time before Serve.
func (s *Server) OnUpstream(f func(status int, took time.Duration)) { s.proxy.upstream.answered = f }

// ObserveCosts reports to o what requests have cost whose answers report it. It is for the time before Serve; nil observes nothing.
func (s *Server) ObserveCosts(o ports.CostObserver) { s.proxy.costs = o }

// Listen opens the configured address. The listener is Serve's.
func (s *Server) Listen() (net.Listener, error) { return net.Listen("tcp", s.cfg.Addr) }

// Serve answers on ln until Shutdown, and then closes ln and returns nil. Shutdown may still wait for answers after Serve
// has returned.
func (s *Server) Serve(ln net.Listener) error {
	own := s.conns.Listen(ln)
	serve := s.http.Serve
	if s.useTLS {
		serve = func(ln net.Listener) error { return s.http.ServeTLS(ln, "", "") }
	}
	if err := serve(own); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Draining reports whether Shutdown has been called. The process should then get no new requests.
func (s *Server) Draining() bool { return s.draining.Load() }

// Shutdown stops the server without losing a request. During the drain period it still accepts and answers, and closes each
// connection after its answer (over HTTP/2 with GOAWAY), so that clients and load balancers move away. Then it stops
// accepting, waits for requests in flight, and ends WebSockets; connections without a request get one more second. If ctx ends
// first, Shutdown closes everything, gives the requests that it cuts off a second to settle their costs, and returns the context's
// error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	period := time.NewTimer(s.cfg.DrainPeriod)
	defer period.Stop()
	select {
	case <-period.C:
	case <-ctx.Done():
	}
	defer s.proxy.upstream.close()
	defer s.proxy.awaitEnds(endGrace)
	late := time.AfterFunc(lateGrace, s.conns.CloseUnbegun)
	defer late.Stop()
	if s.http.Shutdown(ctx) == nil && s.conns.Await(ctx) {
		return nil
	}
	s.conns.CloseAll()
	_ = s.http.Close() // every connection is closed already
	return ctx.Err()
}
