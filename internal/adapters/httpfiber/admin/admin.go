// Package admin is the admin plane: health, readiness, metrics, profiles, clients' buckets, and the live page.
package admin

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/middleware/pprof"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/httpserver"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/reply"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/secret"
	"github.com/velocity-limiter/velocity/internal/web/bearer"
	"github.com/velocity-limiter/velocity/internal/web/hostname"
	"github.com/velocity-limiter/velocity/internal/web/problem"
	"github.com/velocity-limiter/velocity/internal/web/setting"
)

// Bounds for few clients: operators, probes and scrapers.
const (
	timeout     = 10 * time.Second
	idleTimeout = 75 * time.Second
	maxConns    = 128
)

// ServiceState is what readiness depends on, besides the store.
type ServiceState struct {
	// FailureMode returns how requests are decided while no shard answers. Nil: open.
	FailureMode func() policy.FailureMode
	// Draining reports whether the service is stopping. Nil: it never is.
	Draining func() bool
	// TokenKeys reports whether the keys of tokens are loaded or not needed, and otherwise whether readiness waits for them. Nil: they
	// are not needed.
	TokenKeys func() (loaded, starting bool)
}

// Server is the admin plane. Make it with New.
type Server struct {
	cfg       Config
	http      *httpserver.Server
	log       *zap.Logger
	readiness *readiness
	stopping  []func() // called when Shutdown begins

	overrides ports.Overrides             // nil without WithOverrides
	shownKey  func(ports.ClientID) string // see WithShownKeys
}

// Option adds routes to the admin plane. token is the handler in front of routes that need the token.
type Option func(a *Server, token fiber.Handler)

// WithMetrics serves scrapes at /metrics.
func WithMetrics(scrape http.Handler) Option {
	return func(a *Server, token fiber.Handler) {
		a.http.App.Get("/metrics", token, adaptor.HTTPHandler(scrape))
	}
}

// New builds the admin plane. It opens nothing.
func New(
	cfg Config, inspector ports.Inspector, health ports.HealthChecker, state ServiceState, log *zap.Logger,
	options ...Option,
) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	h := httpserver.New(log, httpserver.Limits{Read: timeout, Write: timeout, Idle: idleTimeout, Conns: maxConns, Instance: withoutClient})
	h.App.Use(guardHost(cfg.Hosts), guardOrigin)
	h.App.Get("/healthz", alive)
	a := &Server{
		cfg: cfg, http: h, log: log, readiness: &readiness{health: health, state: state, log: log},
		shownKey: func(id ports.ClientID) string { return id.Key },
	}
	h.App.Get("/readyz", a.readiness.answer)

	token := guardToken(cfg.tokens())
	b := &buckets{inspector: inspector, audit: a.audit}
	h.App.Get("/v1/buckets/:policy/:key", token, b.inspect)
	h.App.Delete("/v1/buckets/:policy/:key", token, b.reset)
	h.App.Delete("/v1/permits/:policy/:key", token, b.endPermits)
	h.App.Delete("/v1/permits/:policy/:key/:id", token, b.endPermits)
	for _, mount := range options {
		mount(a, token)
	}
	h.Mount()
	return a, nil
}

// Listen opens the configured address. The listener is Serve's.
func (a *Server) Listen() (net.Listener, error) { return net.Listen("tcp", a.cfg.Addr) }

// Serve answers on ln until Shutdown, and returns nil then; it closes ln.
func (a *Server) Serve(ln net.Listener) error { return a.http.Serve(ln) }

// Shutdown stops accepting at once and waits for requests in flight. Call it after the data plane's Shutdown, so that
// readiness reports that the service is draining.
func (a *Server) Shutdown(ctx context.Context) error {
	for _, stop := range a.stopping {
		stop()
	}
	return a.http.Shutdown(ctx)
}

// withoutClient returns the first two segments of a path: /v1/buckets of /v1/buckets/{policy}/{key}. The key may be a secret.
func withoutClient(path string) string {
	segments := strings.SplitN(path, "/", 4)
	return strings.Join(segments[:min(len(segments), 3)], "/")
}

// alive answers as long as the process runs, whether or not it can decide.
func alive(c *fiber.Ctx) error {
	reply.JSON(c.Context(), []byte(`{"state":"alive"}`))
	return nil
}

func guardToken(tokens *bearer.Tokens) fiber.Handler {
	return func(c *fiber.Ctx) error {
		if tokens.Set() {
			name, err := tokens.Check(c.Context().Request.Header.PeekAll(fiber.HeaderAuthorization))
			if err != nil {
				return err
			}
			setActor(c, name)
		}
		return c.Next()
	}
}

// guardHost refuses host names that are not configured; see [hostname.Local].
func guardHost(hosts []string) fiber.Handler {
	known := map[string]bool{"": true} // browsers always send Host
	for _, h := range hosts {
		known[hostname.Of(strings.TrimSpace(h))] = true
	}
	return func(c *fiber.Ctx) error {
		if host := hostname.Of(string(c.Context().URI().Host())); hostname.Local(host) || known[host] {
			return c.Next()
		}
		return problem.Input(problem.ErrForbidden, fiber.HeaderHost, "this name is not in "+setting.Prefix+"ADMIN_HOSTS")
	}
}

// guardOrigin refuses changes that a page of another origin requests from an operator's browser. Browsers say in
// Sec-Fetch-Site where a request comes from, and pages cannot forge it. Other programs do not send it.
func guardOrigin(c *fiber.Ctx) error {
	if method := c.Method(); method == fiber.MethodGet || method == fiber.MethodHead {
		return c.Next()
	}
	switch c.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return c.Next()
	}
	return problem.Input(problem.ErrForbidden, "Sec-Fetch-Site", "pages of another origin may change nothing here")
}

// answerJSON answers with a value as JSON. Bytes of a client's key that are not UTF-8 become U+FFFD.
func answerJSON(c *fiber.Ctx, value any) error {
	body, err := json.Marshal(value, jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return err
	}
	reply.JSON(c.Context(), body)
	return nil
}

// WithProfiles serves the profiles of the process below /debug/pprof/, for go tool pprof. They show memory, and so clients'
// keys: they need the token if one is set, and without one the admin plane listens on loopback only.
func WithProfiles() Option {
	return func(a *Server, token fiber.Handler) {
		profiles := pprof.New()
		for _, path := range []string{"/debug/pprof", "/debug/pprof/*"} {
			a.http.App.Get(path, token, profiles)
		}
		a.http.App.Post("/debug/pprof/symbol", token, profiles) // go tool pprof sends its addresses so
	}
}

// Config configures the admin plane. The tags are envconfig's.
type Config struct {
	Addr  string        `envconfig:"ADMIN_ADDR" default:"127.0.0.1:3001" desc:"address of the admin plane"`
	Token secret.Secret `envconfig:"ADMIN_TOKEN" tokens:"" desc:"bearer token of the admin plane; needed beyond loopback"`
	// LiveTokens, if not nil, are what Token lists now: it may change while the server runs.
	LiveTokens *bearer.Tokens `envconfig:"-"`
	// Hosts are the names by which a browser may reach the admin plane, besides localhost. See guardHost.
	Hosts []string `envconfig:"ADMIN_HOSTS" desc:"host names of the admin plane beside localhost"`
}

func (c Config) tokens() *bearer.Tokens {
	if c.LiveTokens != nil {
		return c.LiveTokens
	}
	return bearer.New(c.Token)
}

// Validate reports every violation at once, each with the setting's short name and the value found.
func (c Config) Validate() error {
	var v setting.Violations
	v.Addr("ADMIN_ADDR", c.Addr)
	if err := bearer.Validate(c.Token); err != nil {
		v.Add("ADMIN_TOKEN", c.Token.String(), err.Error())
	}
	if c.Token == "" && !setting.LoopbackOnly(c.Addr) {
		v.Add("ADMIN_ADDR", strconv.Quote(c.Addr),
			"is reachable from other machines, which needs {ADMIN_TOKEN}")
	}
	for _, h := range c.Hosts {
		if h = strings.TrimSpace(h); h == "" || strings.ContainsAny(h, "/: \t") {
			v.Add("ADMIN_HOSTS", strconv.Quote(h), "must be a host name, without scheme and port")
		}
	}
	return v.Err()
}
