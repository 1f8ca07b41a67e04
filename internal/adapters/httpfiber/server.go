package httpfiber

import (
	"context"
	_ "embed"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/decider"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/decisionapi"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/forwardauth"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/httpserver"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/reply"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/bearer"
	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
	"github.com/velocity-limiter/velocity/internal/web/clientid"
	"github.com/velocity-limiter/velocity/internal/web/dataplane"
	"github.com/velocity-limiter/velocity/internal/web/keyvalue"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// Config configures the data plane.
type Config = dataplane.Config

// Server is the data plane. Make it with New.
type Server struct {
	cfg      Config
	http     *httpserver.Server
	deciders []*decider.Decider
}

// New builds the data plane: the protected resource, the decision API and forward-auth, all over limiter, whose permits are ended and
// renewed by permits. It opens nothing.
func New(cfg Config, limiter ports.Limiter, permits ports.Permits, log *zap.Logger) (*Server, error) {
	s, proxies, err := newServer(cfg, log)
	if err != nil {
		return nil, err
	}
	reading := decider.Config{Proxies: proxies, Paths: cfg.Paths(), Headers: cfg.Headers(), Log: log}
	held := decider.New(limiter, reading)
	s.http.Intercept = forwardauth.New(held, log).Handle
	reading.PathsAreNormal, reading.Permits = true, permits // the server calls routes with normal paths
	d := decider.New(limiter, reading)
	s.deciders = []*decider.Decider{held, d}
	s.http.App.Get("/api/resource", limited(d), resource)
	s.http.App.Get(openAPIPath, describe)
	decisionapi.Mount(s.http.App, limiter, permits, cfg.Tokens(), proxies)
	s.http.Mount()
	return s, nil
}

// DecisionAPI returns the decision API alone, for a server of net/http, and the largest body of each of its paths. That server
// must bound the body, which is read whole, and bound the time in which it arrives. tracer may be nil.
func DecisionAPI(
	cfg Config, limiter ports.Limiter, permits ports.Permits, tracer ports.Tracer, log *zap.Logger,
) (http.Handler, map[string]int, error) {
	cfg.MaxConns = 1      // it has no connections of its own
	cfg.CORSOrigins = nil // that server adds the headers
	s, proxies, err := newServer(cfg, log)
	if err != nil {
		return nil, nil, err
	}
	decisionapi.Mount(s.http.App, limiter, permits, cfg.Tokens(), proxies)
	s.http.Mount()
	s.Trace(tracer)
	bodies := make(map[string]int)
	for _, route := range s.http.App.GetRoutes(true) {
		bodies[route.Path] = maxBody(route.Path)
	}
	handle := s.http.App.Server().Handler
	return adaptor.FiberHandler(func(c *fiber.Ctx) error {
		handle(c.Context())
		return nil
	}), bodies, nil
}

// newServer returns a server without routes, and the proxies that it trusts.
func newServer(cfg Config, log *zap.Logger) (*Server, clientid.Proxies, error) {
	if err := cfg.Validate(); err != nil {
		return nil, clientid.Proxies{}, err
	}
	proxies, err := clientid.ParseProxies(cfg.TrustedProxies)
	if err != nil {
		return nil, proxies, err
	}
	pages, err := cfg.CORS()
	if err != nil {
		return nil, proxies, err
	}
	tlsConfig, err := cfg.TLS()
	if err != nil {
		return nil, proxies, err
	}
	if tlsConfig != nil {
		tlsConfig.NextProtos = []string{"http/1.1"}
	}
	paths := cfg.Paths()
	return &Server{cfg: cfg, http: httpserver.New(log, httpserver.Limits{
		Read: cfg.ReadTimeout, Write: cfg.WriteTimeout, Idle: cfg.IdleTimeout, Conns: cfg.MaxConns,
		Body: bodyLimit(cfg.Tokens()), Paths: &paths, TLS: tlsConfig, CORS: pages,
	})}, proxies, nil
}

// Trace has the tracer record each request. It is for the time before Serve; nil records nothing.
func (s *Server) Trace(t ports.Tracer) { s.http.Tracer = t }

// VerifyTokens has the tokens of requests verified, for keys and conditions by their claims. It is for the time before Serve. The
// decision API looks at none: its callers name claims.
func (s *Server) VerifyTokens(t keyvalue.Tokens) {
	for _, d := range s.deciders {
		d.VerifyTokens(t)
	}
}

// resource is the built-in protected resource.
func resource(c *fiber.Ctx) error {
	reply.JSON(c.Context(), []byte(`{"message":"The request was within its limits."}`))
	return nil
}

// bodyLimit returns the largest body of a POST by its header. Large ones are read only of callers with a token. While none is set,
// the decision API knows callers by their address, which it learns after the body.
func bodyLimit(tokens *bearer.Tokens) func(h *fasthttp.RequestHeader) (most int, larger error) {
	return func(h *fasthttp.RequestHeader) (most int, larger error) {
		most = maxBody(utils.UnsafeString(h.RequestURI()))
		if most > httpserver.MaxBody && tokens.Set() {
			if _, err := tokens.Check(h.PeekAll(fasthttp.HeaderAuthorization)); err != nil {
				return httpserver.MaxBody, err
			}
		}
		return most, problem.ErrTooLarge
	}
}

// maxBody returns the largest body of a POST to a request target, whose path may not be in its normal form.
func maxBody(target string) int {
	if target != "" && target[0] != '/' { // http://host/path
		_, target, _ = strings.Cut(target, "://")
		target = target[max(strings.IndexByte(target, '/'), 0):]
	}
	if end := strings.IndexAny(target, "?#"); end >= 0 {
		target = target[:end]
	}
	if path, err := cleanpath.Normalize(target); err == nil && decisionapi.LargeBody(path) {
		return decisionapi.MaxLargeBody
	}
	return httpserver.MaxBody
}

// Listen opens the configured address. The listener is Serve's.
func (s *Server) Listen() (net.Listener, error) { return net.Listen("tcp", s.cfg.Addr) }

// Serve answers on ln until Shutdown, and then closes ln and returns nil. Shutdown may still wait for answers after Serve
// has returned.
func (s *Server) Serve(ln net.Listener) error { return s.http.Serve(ln) }

// Draining reports whether Shutdown has been called. The process should then get no new requests.
func (s *Server) Draining() bool { return s.http.Draining() }

// Shutdown stops the server without losing a request. During the drain period it still accepts and answers, and closes each
// connection after its answer, so that clients and load balancers move away. Then it stops accepting, waits for requests in
// flight and closes the other connections; those that send nothing, or half a request, get one more second. If ctx ends
// first, Shutdown closes everything and returns the context's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.http.Drain()
	period := time.NewTimer(s.cfg.DrainPeriod)
	defer period.Stop()
	select {
	case <-period.C:
	case <-ctx.Done():
	}
	return s.http.Shutdown(ctx)
}

// openAPIPath is the path of the data plane's description.
const openAPIPath = "/openapi.yaml"

// openAPI describes the data plane. The end-to-end tests check every answer against it.
//
//go:embed openapi.yaml
var openAPI []byte

// describe answers with openAPI. It needs no token.
func describe(c *fiber.Ctx) error {
	ctx := c.Context()
	ctx.SetContentType("application/yaml") // RFC 9512
	ctx.SetBody(openAPI)
	return nil
}
