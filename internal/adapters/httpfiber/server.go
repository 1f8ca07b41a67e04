package httpfiber

import (
	"context"
	"net"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The largest bodies that are read.
const (
	maxBody       = 64 << 10
	maxChecksBody = 1 << 20
)

const checksPath = "/v1/checks"

// Server is the data plane. Make it with New.
type Server struct {
	cfg   Config
	http  *httpServer
	proxy *proxy // nil without an upstream
}

// New builds the data plane: the protected resource, the decision API and, with an upstream, the reverse proxy, all over
// limiter. It opens nothing.
func New(cfg Config, limiter ports.Limiter, log *zap.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	proxies, err := ParseProxies(cfg.TrustedProxies)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	paths := cfg.paths()
	options := []Option{WithTrustedProxies(proxies), WithLogger(log), WithPaths(paths)}
	h := newHTTPServer(log, limits{
		read: cfg.ReadTimeout, write: cfg.WriteTimeout, idle: cfg.IdleTimeout,
		conns: cfg.MaxConns, body: dataPlaneBody, paths: &paths, stream: cfg.Upstream.URL != "", tls: tlsConfig,
	})
	s := &Server{cfg: cfg, http: h}
	h.app.Get("/api/resource", RateLimitMiddleware(limiter, options...), resource)
	h.app.Get(openAPIPath, describe)
	if cfg.Upstream.URL == "" || cfg.APIToken != "" { // else its routes are the upstream's
		mountDecisionAPI(h.app, limiter, guardAPI(newBearer(cfg.APIToken), proxies))
	}
	h.auth = &forwardAuth{limits: newMiddleware(limiter, options), log: log}
	if cfg.Upstream.URL != "" {
		if s.proxy, err = newProxy(cfg, newMiddleware(limiter, options), log); err != nil {
			return nil, err
		}
		h.forward = s.proxy.handle
	}
	h.mount()
	return s, nil
}

// OnUpstream has f called with the status of each answer of the upstream, 0 where there was none, and the time to its
// header. It is for the time before Serve; without an upstream nothing calls it.
func (s *Server) OnUpstream(f func(status int, took time.Duration)) {
	if s.proxy != nil {
		s.proxy.answered = f
	}
}

func mountDecisionAPI(app *fiber.App, limiter ports.Limiter, guard fiber.Handler) {
	api := &decisionAPI{limiter: limiter}
	app.Post("/v1/check", guard, api.decide(domain.OpTake))
	app.Post(checksPath, guard, api.decideMany)
	app.Post("/v1/refund", guard, api.decide(domain.OpRefund))
	app.Post("/v1/charge", guard, api.decide(domain.OpCharge))
}

// resource is the built-in protected resource.
func resource(c *fiber.Ctx) error {
	writeJSON(c.Context(), []byte(`{"message":"The request was within its limits."}`))
	return nil
}

// dataPlaneBody is the largest body that is read for a request target, which may be spelled in any way.
func dataPlaneBody(target string) int {
	if target != "" && target[0] != '/' { // http://host/path
		_, target, _ = strings.Cut(target, "://")
		target = target[max(strings.IndexByte(target, '/'), 0):]
	}
	if end := strings.IndexAny(target, "?#"); end >= 0 {
		target = target[:end]
	}
	if path, err := NormalizePath(target); err == nil && path == checksPath {
		return maxChecksBody
	}
	return maxBody
}

// Listen opens the configured address. The listener is Serve's.
func (s *Server) Listen() (net.Listener, error) { return net.Listen("tcp", s.cfg.Addr) }

// Serve answers on ln until Shutdown, and returns nil then; it closes ln. Shutdown may still be waiting for answers
// when Serve has returned.
func (s *Server) Serve(ln net.Listener) error { return s.http.serve(ln) }

// Draining reports whether Shutdown has been called: from then on the process should get no new work.
func (s *Server) Draining() bool { return s.http.draining.Load() }

// Shutdown stops the server without losing a request. For the drain period it still accepts and answers, and closes
// each connection after its answer, so that clients and load balancers move away; then it stops accepting, waits
// for what is in flight and closes the rest. Connections that send nothing, or half a request, get a second more.
// When ctx ends first, everything is cut off and the context's error returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.http.draining.Store(true)
	period := time.NewTimer(s.cfg.DrainPeriod)
	defer period.Stop()
	select {
	case <-period.C:
	case <-ctx.Done():
	}
	if s.proxy != nil {
		defer s.proxy.client.Close()
	}
	return s.http.shutdown(ctx)
}

// bodyLimit is asked for each request before its body is read. No route reads more than the usual of anything but a
// POST.
func bodyLimit(h *fasthttp.RequestHeader, limit func(target string) int) int {
	if !h.IsPost() {
		return maxBody
	}
	return limit(utils.UnsafeString(h.RequestURI()))
}
