package httpfiber

import (
	"bytes"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// RateLimitMiddleware returns a handler that decides each request and calls the next handler only if it is allowed.
// Whatever that answers, even by an error or a panic, has the rate limit headers. A denial is answered here, with a
// problem: 429, or 503 where the store failed and the policy is closed. A request that cannot be decided is refused,
// never let through.
//
// It suits any Fiber app. The client is the connection's peer; behind a proxy, see [WithTrustedProxies]. What
// Fiber's own configuration says about proxies has no effect here.
func RateLimitMiddleware(limiter ports.Limiter, options ...Option) fiber.Handler {
	m := &middleware{limiter: limiter, cost: 1, clients: &clientFinder{log: zap.NewNop()}}
	for _, set := range options {
		set(m)
	}
	return m.handle
}

// Option adjusts RateLimitMiddleware.
type Option func(*middleware)

// WithCost sets what each request costs, in tokens; 1 without it. 0 only looks.
func WithCost(cost domain.Tokens) Option { return func(m *middleware) { m.cost = cost } }

// WithPolicy decides by the policy of this name, instead of the first that matches the request.
func WithPolicy(name string) Option { return func(m *middleware) { m.policy = name } }

// WithKey lets the app say who the client is, for example by the user it has authenticated: the function returns the
// value of the policy's own key. An empty value leaves it to the policy. The value must not change later, so
// copy what comes from the fiber.Ctx.
func WithKey(key func(*fiber.Ctx) string) Option { return func(m *middleware) { m.key = key } }

// WithTrustedProxies names the peers whose X-Forwarded-For is believed.
func WithTrustedProxies(p Proxies) Option { return func(m *middleware) { m.clients.proxies = p } }

// WithLogger is where an ignored X-Forwarded-For is told, once. Decisions are logged by the Limiter's observer.
func WithLogger(log *zap.Logger) Option { return func(m *middleware) { m.clients.log = log } }

type middleware struct {
	limiter ports.Limiter
	cost    domain.Tokens
	policy  string
	key     func(*fiber.Ctx) string
	clients *clientFinder
}

func (m *middleware) handle(c *fiber.Ctx) error {
	ctx := c.Context()
	d, err := m.decide(c)
	if err != nil {
		writeError(ctx, err)
		return nil
	}
	if !d.Allowed() {
		p := denied(&d)
		writeProblem(ctx, &p)
		setRateLimitHeaders(&ctx.Response.Header, &d)
		return nil
	}
	// Deferred, since the next handler may panic, and set last, since it may clear the headers.
	defer setRateLimitHeaders(&ctx.Response.Header, &d)
	return c.Next()
}

func (m *middleware) decide(c *fiber.Ctx) (domain.Decision, error) {
	ctx := c.Context()
	path, err := NormalizePath(utils.UnsafeString(ctx.URI().PathOriginal()))
	if err != nil {
		return domain.Decision{}, err
	}
	method := c.Method()
	if method == fiber.MethodHead { // else HEAD would be a second allowance for the same resource
		method = fiber.MethodGet
	}
	headers := headerLookups.Get().(*headerLookup)
	headers.from = &ctx.Request.Header
	defer headers.release()
	req := domain.Request{
		Cost:   m.cost,
		Policy: m.policy,
		Method: method,
		Host:   utils.UnsafeString(ctx.URI().Host()),
		Path:   path,
		Client: m.clients.client(ctx),
		Lookup: headers.lookup,
		ID:     requestID(ctx),
	}
	if m.key != nil {
		req.Key = m.key(c)
	}
	// Not Fiber's RequestCtx: that ends as soon as the server starts to stop, and would fail what is in flight.
	return m.limiter.Decide(c.UserContext(), req)
}

// headerLookup answers domain.Request.Lookup. It is pooled together with its method value, which would else be
// allocated for every request.
type headerLookup struct {
	from   *fasthttp.RequestHeader
	lookup func(domain.KeySource) (string, error)
}

var headerLookups = sync.Pool{New: func() any {
	h := new(headerLookup)
	h.lookup = h.value
	return h
}}

func (h *headerLookup) release() {
	h.from = nil
	headerLookups.Put(h)
}

// value returns a copy, since fasthttp reuses the memory for the next request of the connection. A header that is
// sent twice is refused: servers disagree about which of the two counts.
func (h *headerLookup) value(source domain.KeySource) (string, error) {
	if source.Kind != domain.SourceHeader {
		return "", nil
	}
	values := h.from.PeekAll(source.Name)
	if len(values) > 1 || len(values) == 1 && storedOnce(source.Name) && sentTwice(h.from.RawHeaders(), source.Name) {
		return "", &inputError{errMalformed, source.Name, "this header is the client's key and must be sent once"}
	}
	if len(values) == 0 {
		return "", nil
	}
	return string(values[0]), nil
}

// storedOnce names the headers of which fasthttp keeps the last line only.
func storedOnce(name string) bool {
	return strings.EqualFold(name, fasthttp.HeaderUserAgent) || strings.EqualFold(name, fasthttp.HeaderContentType)
}

func sentTwice(raw []byte, name string) bool {
	n := 0
	for line := range bytes.Lines(raw) {
		if len(line) > len(name) && line[len(name)] == ':' &&
			strings.EqualFold(utils.UnsafeString(line[:len(name)]), name) {
			n++
		}
	}
	return n > 1
}
