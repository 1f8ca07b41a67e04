package httpfiber

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/utils"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The admin plane has few clients: operators, probes and scrapers.
const (
	adminTimeout = 10 * time.Second
	adminIdle    = 75 * time.Second
	adminConns   = 128
)

// ServiceState is what readiness depends on beside the store.
type ServiceState struct {
	// FailureMode is what decisions are while no shard answers. Nil: open.
	FailureMode func() domain.FailureMode
	// Draining reports that the service is stopping. Nil: it never is.
	Draining func() bool
}

// Admin is the admin plane. Make it with NewAdmin.
type Admin struct {
	cfg       AdminConfig
	http      *httpServer
	readiness *readiness
	stopping  []func() // called when Shutdown begins
}

// AdminOption adds routes to the admin plane. token guards what is not for everybody.
type AdminOption func(a *Admin, token fiber.Handler)

// WithMetrics serves scrapes at /metrics.
func WithMetrics(scrape http.Handler) AdminOption {
	return func(a *Admin, token fiber.Handler) {
		a.http.app.Get("/metrics", token, adaptor.HTTPHandler(scrape))
	}
}

// NewAdmin builds the admin plane. It opens nothing.
func NewAdmin(
	cfg AdminConfig, inspector ports.Inspector, health ports.HealthChecker, state ServiceState, log *zap.Logger,
	options ...AdminOption,
) (*Admin, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	h := newHTTPServer(log, limits{
		read: adminTimeout, write: adminTimeout, idle: adminIdle, conns: adminConns,
		body: func(string) int { return maxBody },
	})
	h.app.Use(guardHost(cfg.Hosts), guardOrigin)
	h.app.Get("/healthz", alive)
	a := &Admin{cfg: cfg, http: h, readiness: &readiness{health: health, state: state, log: log}}
	h.app.Get("/readyz", a.readiness.answer)

	token := guardAdmin(newBearer(cfg.Token))
	b := &buckets{inspector: inspector}
	h.app.Get("/v1/buckets/:policy/:key", token, b.inspect)
	h.app.Delete("/v1/buckets/:policy/:key", token, b.reset)
	for _, mount := range options {
		mount(a, token)
	}
	h.mount()
	return a, nil
}

// Listen opens the configured address. The listener is Serve's.
func (a *Admin) Listen() (net.Listener, error) { return net.Listen("tcp", a.cfg.Addr) }

// Serve answers on ln until Shutdown, and returns nil then; it closes ln.
func (a *Admin) Serve(ln net.Listener) error { return a.http.serve(ln) }

// Shutdown stops at once, but lets what is in flight finish. Call it after the data plane's, so that readiness can
// say that the service is draining.
func (a *Admin) Shutdown(ctx context.Context) error {
	for _, stop := range a.stopping {
		stop()
	}
	return a.http.shutdown(ctx)
}

// alive says that the process runs; whether it can decide is readiness.
func alive(c *fiber.Ctx) error {
	writeJSON(c.Context(), []byte(`{"state":"alive"}`))
	return nil
}

func guardAdmin(token bearer) fiber.Handler {
	return func(c *fiber.Ctx) error {
		if token.set {
			if err := token.check(&c.Context().Request.Header); err != nil {
				return err
			}
		}
		return c.Next()
	}
}

// guardHost refuses names that are not ours. A web page can let its own name resolve to a loopback address, and its
// scripts then reach the admin plane from an operator's browser (DNS rebinding); an address cannot be rebound.
func guardHost(hosts []string) fiber.Handler {
	known := map[string]bool{"localhost": true, "": true} // no browser omits Host
	for _, h := range hosts {
		known[strings.ToLower(strings.TrimSuffix(strings.TrimSpace(h), "."))] = true
	}
	return func(c *fiber.Ctx) error {
		host := hostName(strings.ToLower(utils.UnsafeString(c.Context().URI().Host())))
		if _, err := netip.ParseAddr(host); err == nil || known[host] {
			return c.Next()
		}
		return &inputError{errForbidden, fiber.HeaderHost, "this name is not in " + envPrefix + "ADMIN_HOSTS"}
	}
}

// guardOrigin refuses what another page of an operator's browser would change here. Browsers say where a request comes
// from, and pages cannot forge it; other programs say nothing.
func guardOrigin(c *fiber.Ctx) error {
	if method := c.Method(); method == fiber.MethodGet || method == fiber.MethodHead {
		return c.Next()
	}
	switch c.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return c.Next()
	}
	return &inputError{errForbidden, "Sec-Fetch-Site", "pages of another origin may change nothing here"}
}

// hostName drops the port, the brackets of an IPv6 address and the final dot.
func hostName(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.TrimSuffix(host, ".")
}
