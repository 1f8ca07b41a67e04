// Package httpserver serves HTTP by Fiber for both planes. It bounds what a client can make the server hold, refuses
// requests that other servers might frame differently, normalizes paths, answers every error with a problem, sets a request
// id on every answer, and stops without losing requests.
package httpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/reply"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/span"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
	"github.com/velocity-limiter/velocity/internal/web/cors"
	"github.com/velocity-limiter/velocity/internal/web/listener"
	"github.com/velocity-limiter/velocity/internal/web/problem"
	"github.com/velocity-limiter/velocity/internal/web/target"
)

const (
	// maxHeader is the largest request header. Each open connection holds a buffer of this size.
	maxHeader = 8 << 10
	// lateGrace is the time for connections to finish sending a request once the server has stopped accepting.
	lateGrace = time.Second
)

// MaxBody is the largest body that is read where a server sets no other limit.
const MaxBody = 64 << 10

// Limits bound what one client can make the server hold, and say how requests are read and answered.
type Limits struct {
	Read, Write, Idle time.Duration
	Conns             int
	// Body returns the largest body of a POST with this header, and the error of a larger one. Nil, and other methods: MaxBody and
	// problem.ErrTooLarge.
	Body func(h *fasthttp.RequestHeader) (most int, larger error)
	// Paths is the normal form into which paths are put before routing. Nil: they are left as they are.
	Paths *cleanpath.Rules
	// TLS is nil for a server without TLS.
	TLS *tls.Config
	// CORS says which pages may read the answers.
	CORS cors.Rules
	// Instance returns the path that problems show, given the request's. Nil: they show that.
	Instance func(path string) string
}

// Server serves one listener. Make it with New, add routes to App, and call Mount.
type Server struct {
	App *fiber.App
	// Intercept answers some requests in place of the routes and reports which. It is called with the path as it was
	// sent, and again with its normal form if it did not answer. Nil intercepts nothing.
	Intercept func(ctx *fasthttp.RequestCtx) bool
	// Tracer records requests. Nil records nothing.
	Tracer ports.Tracer

	log      *zap.Logger
	limits   Limits
	conns    *listener.Conns
	draining atomic.Bool

	mu      sync.Mutex
	ln      net.Listener
	stopped bool
}

// New returns a server without routes. It opens nothing.
func New(log *zap.Logger, l Limits) *Server {
	conns := listener.New(l.Conns, log)
	s := &Server{log: log, limits: l, conns: conns}
	s.App = fiber.New(fiber.Config{
		CaseSensitive: true,
		StrictRouting: true,
		ErrorHandler: func(c *fiber.Ctx, err error) error {
			answerError(c.Context(), err)
			return nil
		},
		ReadTimeout:  l.Read,
		WriteTimeout: l.Write,
		IdleTimeout:  l.Idle,
		// The listener enforces the limit, by waiting. fasthttp's own limit, which refuses with a plain text, must not be
		// reached: fasthttp counts a connection for a moment after it was closed.
		Concurrency:                  2 * conns.Most(),
		BodyLimit:                    MaxBody,
		ReadBufferSize:               maxHeader,
		DisablePreParseMultipartForm: true,
		DisableStartupMessage:        true,
	})
	server := s.App.Server()
	server.CloseOnShutdown = true
	server.LazyRequestTime = true // no code here needs the time at which a request arrived
	server.ErrorHandler = s.connectionError
	server.HeaderReceived = func(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
		most, _ := l.body(h)
		return fasthttp.RequestConfig{MaxRequestBodySize: most}
	}
	server.ExpectHandler = func(ctx *fasthttp.RequestCtx) int {
		s.setInstance(ctx)
		most, larger := l.body(&ctx.Request.Header)
		if ctx.Request.Header.ContentLength() <= most {
			return fasthttp.StatusContinue
		}
		reply.Error(ctx, larger)
		return ctx.Response.StatusCode()
	}
	return s
}

// Mount is called once all routes are added to App, before Serve.
func (s *Server) Mount() { s.App.Server().Handler = s.entry(s.App.Handler()) }

// entry wraps next, which is Fiber: every request passes it first.
func (s *Server) entry(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		defer s.leave(ctx)
		if s.Tracer != nil {
			span.Begin(s.Tracer, ctx)
		}
		reply.RequestID(ctx)
		s.setInstance(ctx)
		reply.CORS(ctx, &s.limits.CORS)
		if err := check(&ctx.Request.Header); err != nil {
			ctx.SetConnectionClose() // where the next request begins may be unclear
			reply.Error(ctx, err)
			return
		}
		// Once before the path is normalized: the path of forward-auth ends in the path of another request, whose dot
		// segments must not lead out of it.
		if s.intercepted(ctx) {
			return
		}
		if err := s.normalize(ctx); err != nil {
			reply.Error(ctx, err)
			return
		}
		if s.intercepted(ctx) {
			return
		}
		if !slices.Contains(fiber.DefaultMethods, utils.UnsafeString(ctx.Method())) {
			// Fiber would answer these with a plain text. For TRACE, which no route has, it answers 404 or 405 as usual.
			ctx.Request.Header.SetMethod(fasthttp.MethodTrace)
		}
		next(ctx)
	}
}

func (s *Server) setInstance(ctx *fasthttp.RequestCtx) {
	if s.limits.Instance != nil {
		reply.SetInstance(ctx, s.limits.Instance(string(ctx.URI().PathOriginal())))
	}
}

func (s *Server) intercepted(ctx *fasthttp.RequestCtx) bool {
	return s.Intercept != nil && s.Intercept(ctx)
}

// check refuses what servers may read in different ways.
func check(h *fasthttp.RequestHeader) error {
	if version := string(h.Protocol()); version != "HTTP/1.1" && version != "HTTP/1.0" {
		return problem.Input(problem.ErrMalformed, "version", "must be HTTP/1.0 or HTTP/1.1")
	}
	if _, _, err := target.Split(utils.UnsafeString(h.RequestURI())); err != nil {
		return err
	}
	if host := utils.UnsafeString(h.Host()); host != "" && !target.ValidHost(host) {
		return problem.Input(problem.ErrMalformed, fasthttp.HeaderHost, "must be a host name or an address")
	}
	if err := target.CheckMethod(utils.UnsafeString(h.Method())); err != nil {
		return err
	}
	return checkLines(h.RawHeaders())
}

// normalize puts the path into its normal form.
func (s *Server) normalize(ctx *fasthttp.RequestCtx) error {
	if s.limits.Paths == nil {
		return nil
	}
	raw := utils.UnsafeString(ctx.URI().PathOriginal())
	path, err := s.limits.Paths.Normalize(raw)
	if err == nil && path != raw {
		ctx.URI().SetPath(path)
	}
	return err
}

// leave ends every request. If its handler panicked, it logs the reason and answers 500 without it.
func (s *Server) leave(ctx *fasthttp.RequestCtx) {
	if reason := recover(); reason != nil {
		s.log.Error("a handler panicked", zap.Any("reason", reason), zap.String("requestID", reply.RequestID(ctx)),
			zap.Stack("stack"))
		reply.Error(ctx, problem.ErrPanic)
	}
	if s.draining.Load() {
		ctx.SetConnectionClose()
	}
	active, _ := span.Of(ctx)
	active.End(ctx.Response.StatusCode())
}

// connectionError answers what could not be read as a request. fasthttp closes the connection afterwards.
func (s *Server) connectionError(ctx *fasthttp.RequestCtx, err error) {
	if err = connectionError(err); !errors.Is(err, problem.ErrClientTooSlow) {
		listener.Linger(ctx.Conn())
	}
	s.setInstance(ctx)
	if errors.Is(err, problem.ErrTooLarge) { // of a chunked body, fasthttp has dropped the header
		_, err = s.limits.body(&ctx.Request.Header)
	}
	reply.Error(ctx, err)
}

// Serve answers on ln until Shutdown, and returns nil then; it closes ln.
func (s *Server) Serve(ln net.Listener) error {
	own := s.conns.Listen(ln)
	s.mu.Lock()
	stopped := s.stopped
	s.ln = own
	s.mu.Unlock()
	if stopped {
		return own.Close()
	}
	ln = own
	if s.limits.TLS != nil {
		ln = tls.NewListener(own, s.limits.TLS)
	}
	return s.App.Listener(ln)
}

// Drain has each connection closed after its answer. New connections are still accepted.
func (s *Server) Drain() { s.draining.Store(true) }

// Draining reports whether Drain or Shutdown has been called.
func (s *Server) Draining() bool { return s.draining.Load() }

// Shutdown stops accepting, waits for what is in flight, and closes the rest. Connections that send nothing, or half a
// request, get a second. If ctx ends first, everything is cut off and the context's error returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.mu.Lock()
	s.stopped = true
	if s.ln != nil { // fasthttp does not know the listener until its Serve has begun
		_ = s.ln.Close()
	}
	s.mu.Unlock()
	s.conns.ReadUntil(time.Now().Add(lateGrace))
	if err := s.App.ShutdownWithContext(ctx); (err == nil || ctx.Err() == nil) && s.conns.Await(ctx) {
		return nil
	}
	s.conns.CloseAll()
	return ctx.Err()
}

// body is asked for each request before its body is read.
func (l *Limits) body(h *fasthttp.RequestHeader) (most int, larger error) {
	if l.Body == nil || !h.IsPost() {
		return MaxBody, problem.ErrTooLarge
	}
	return l.Body(h)
}
