package httpfiber

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	// maxHeader is the largest request header, and what each open connection costs in memory.
	maxHeader = 8 << 10
	// lateGrace is how long, once the server has stopped accepting, a connection may still take to finish sending
	// a request.
	lateGrace = time.Second
)

// limits bound what one client can make the server hold.
type limits struct {
	read, write, idle time.Duration
	conns             int
	body              func(target string) int
	paths             *PathRules // the normal form into which paths are put before routing; nil: they are not
	stream            bool       // requests are routed before their bodies have arrived
	tls               *tls.Config
}

// httpServer is what both planes have in common: Fiber with its dangerous defaults off, problems for every error,
// request ids, and an orderly end.
type httpServer struct {
	app      *fiber.App
	log      *zap.Logger
	limits   limits
	conns    *connections
	forward  fasthttp.RequestHandler // what no route is for; nil: a 404
	auth     *forwardAuth            // nil: not served
	own      routes
	tracer   ports.Tracer // nil: requests are not recorded
	draining atomic.Bool

	mu      sync.Mutex
	ln      *listener
	stopped bool
}

func newHTTPServer(log *zap.Logger, l limits) *httpServer {
	l.conns = boundByOpenFiles(l.conns, log)
	s := &httpServer{log: log, limits: l, conns: newConnections(l.conns)}
	s.app = fiber.New(fiber.Config{
		CaseSensitive: true,
		StrictRouting: true,
		ErrorHandler: func(c *fiber.Ctx, err error) error {
			writeError(c.Context(), err)
			return nil
		},
		ReadTimeout:  l.read,
		WriteTimeout: l.write,
		IdleTimeout:  l.idle,
		// Our own listener waits at the cap. fasthttp's cap, which refuses with a text of its own, must be out of the
		// way: it counts a connection for a moment after that is closed.
		Concurrency:                  2 * l.conns,
		BodyLimit:                    maxBody,
		ReadBufferSize:               maxHeader,
		DisablePreParseMultipartForm: true,
		DisableStartupMessage:        true,
		StreamRequestBody:            l.stream,
	})
	server := s.app.Server()
	server.CloseOnShutdown = true
	server.LazyRequestTime = true // nothing here asks when a request came in
	server.ErrorHandler = s.connectionError
	server.HeaderReceived = func(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
		if l.stream {
			return fasthttp.RequestConfig{MaxRequestBodySize: 1} // that much is read before the handler is called
		}
		return fasthttp.RequestConfig{MaxRequestBodySize: bodyLimit(h, l.body)}
	}
	server.ExpectHandler = func(ctx *fasthttp.RequestCtx) int {
		if l.stream || ctx.Request.Header.ContentLength() <= bodyLimit(&ctx.Request.Header, l.body) {
			return fasthttp.StatusContinue
		}
		writeError(ctx, errTooLarge)
		return ctx.Response.StatusCode()
	}
	return s
}

// mount ends the setting up of routes.
func (s *httpServer) mount() {
	s.app.Server().Handler = s.entry(s.app.Handler())
	s.own = routesOf(s.app)
}

// entry is what every request passes before Fiber sees it.
func (s *httpServer) entry(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		defer s.leave(ctx)
		if s.tracer != nil {
			s.beginSpan(ctx)
		}
		requestID(ctx)
		if err := s.checkFraming(ctx); err != nil {
			writeError(ctx, err)
			return
		}
		// Before the path has its normal form: what follows the door's is another request's, and must not lead out.
		if s.askedForAuth(ctx) {
			return
		}
		if err := s.normalize(ctx); err != nil {
			writeError(ctx, err)
			return
		}
		if s.askedForAuth(ctx) {
			return
		}
		if s.forward != nil && !s.own.have(utils.UnsafeString(ctx.URI().PathOriginal())) {
			s.forward(ctx)
			return
		}
		if s.limits.stream {
			if err := s.readBody(ctx); err != nil {
				writeError(ctx, err)
				return
			}
		}
		if !knownMethod(ctx.Method()) {
			// Fiber answers these with a text of its own. No route has TRACE, so that it answers 404 or 405, with
			// Allow, as for any other method.
			ctx.Request.Header.SetMethod(fasthttp.MethodTrace)
		}
		next(ctx)
	}
}

// askedForAuth answers a request for the door that other proxies ask.
func (s *httpServer) askedForAuth(ctx *fasthttp.RequestCtx) bool {
	if s.auth == nil {
		return false
	}
	rest, ok := belowForwardAuth(utils.UnsafeString(ctx.URI().PathOriginal()))
	if ok {
		s.auth.handle(ctx, rest)
	}
	return ok
}

// checkFraming refuses what other servers cut at other places.
func (s *httpServer) checkFraming(ctx *fasthttp.RequestCtx) error {
	err := checkLines(ctx.Request.Header.RawHeaders())
	if err != nil {
		ctx.SetConnectionClose() // who knows where the next request begins
	}
	return err
}

// normalize puts the path into its normal form.
func (s *httpServer) normalize(ctx *fasthttp.RequestCtx) error {
	if s.limits.paths == nil {
		return nil
	}
	raw := utils.UnsafeString(ctx.URI().PathOriginal())
	path, err := s.limits.paths.Normalize(raw)
	if err == nil && path != raw {
		ctx.URI().SetPath(path)
	}
	return err
}

// readBody reads what a server that does not stream has read before it calls the handler.
func (s *httpServer) readBody(ctx *fasthttp.RequestCtx) error {
	stream := ctx.RequestBodyStream()
	if stream == nil {
		return nil
	}
	most := bodyLimit(&ctx.Request.Header, s.limits.body)
	body, err := io.ReadAll(io.LimitReader(stream, int64(most)+1))
	switch {
	case err != nil:
		err = connectionError(err)
	case len(body) > most:
		err = errTooLarge
	default:
		ctx.Request.SetBodyRaw(body)
		return nil
	}
	ctx.SetConnectionClose()
	linger(ctx.Conn())
	return err
}

// leave ends every request, also one whose handler panicked: the reason goes to the log, never to the client.
func (s *httpServer) leave(ctx *fasthttp.RequestCtx) {
	if reason := recover(); reason != nil {
		s.log.Error("a handler panicked", zap.Any("reason", reason), zap.String("requestID", requestID(ctx)),
			zap.Stack("stack"))
		writeError(ctx, errPanic)
	}
	if s.draining.Load() {
		ctx.SetConnectionClose()
	}
	if span := spanOf(ctx); span != nil {
		span.End(ctx.Response.StatusCode())
	}
}

func knownMethod(method []byte) bool {
	for _, m := range fiber.DefaultMethods {
		if m == string(method) {
			return true
		}
	}
	return false
}

// connectionError answers what was no request. fasthttp closes the connection afterwards.
func (s *httpServer) connectionError(ctx *fasthttp.RequestCtx, err error) {
	if err = connectionError(err); !errors.Is(err, errClientTooSlow) {
		linger(ctx.Conn())
	}
	writeError(ctx, err)
}

func (s *httpServer) serve(ln net.Listener) error {
	own := s.conns.listen(ln, s.log)
	s.mu.Lock()
	stopped := s.stopped
	s.ln = own
	s.mu.Unlock()
	if stopped {
		return own.Close()
	}
	ln = own
	if s.limits.tls != nil {
		ln = tls.NewListener(own, s.limits.tls)
	}
	return s.app.Listener(ln)
}

func (s *httpServer) shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.mu.Lock()
	s.stopped = true
	if s.ln != nil { // fasthttp knows only a listener whose Serve has begun
		_ = s.ln.Close()
	}
	s.mu.Unlock()
	s.conns.readUntil(time.Now().Add(lateGrace))
	if err := s.app.ShutdownWithContext(ctx); (err == nil || ctx.Err() == nil) && s.conns.await(ctx) {
		return nil
	}
	s.conns.closeAll()
	return ctx.Err()
}
