package httpfiber

import (
	"context"
	"errors"
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
// never let through. Where the policy has refund_on, the tokens come back after an answer with one of its statuses, but
// not after a panic.
//
// It suits any Fiber app. The client is the connection's peer; behind a proxy, see [WithTrustedProxies]. What
// Fiber's own configuration says about proxies has no effect here.
func RateLimitMiddleware(limiter ports.Limiter, options ...Option) fiber.Handler {
	return newMiddleware(limiter, options).handle
}

func newMiddleware(limiter ports.Limiter, options []Option) *middleware {
	m := &middleware{limiter: limiter, clients: &clientFinder{log: zap.NewNop()}}
	for _, set := range options {
		set(m)
	}
	m.visits.New = func() any { return newVisit() }
	return m
}

// Option adjusts RateLimitMiddleware.
type Option func(*middleware)

// WithTrustedProxies names the peers whose X-Forwarded-For is believed.
func WithTrustedProxies(p Proxies) Option { return func(m *middleware) { m.clients.proxies = p } }

// WithPaths sets how paths are spelled, where it is not the usual way.
func WithPaths(p PathRules) Option { return func(m *middleware) { m.paths = p } }

// WithLogger is where an ignored X-Forwarded-For is told, once. Decisions are logged by the Limiter's observer.
func WithLogger(log *zap.Logger) Option { return func(m *middleware) { m.clients.log = log } }

type middleware struct {
	limiter ports.Limiter
	clients *clientFinder
	paths   PathRules
	visits  sync.Pool // of *visit
}

func (m *middleware) handle(c *fiber.Ctx) error {
	ctx := c.Context()
	v := m.visits.Get().(*visit)
	defer m.leave(v)
	if err := m.decide(c, v); err != nil {
		writeError(ctx, err)
		return nil
	}
	d := &v.answer[0].Decision
	if !d.Allowed() {
		writeDenial(ctx, d)
		return nil
	}
	// Deferred, since the next handler may panic, and set last, since it may clear the headers.
	defer setRateLimitHeaders(&ctx.Response.Header, d)
	err := c.Next()
	if !d.RefundOn.Empty() {
		m.refund(ctx, v, statusOf(ctx, err))
	}
	return err
}

// statusOf is the answer's status: of a handler's error, what Fiber makes of it.
func statusOf(ctx *fasthttp.RequestCtx, err error) int {
	var known *fiber.Error
	switch {
	case err == nil:
		return ctx.Response.StatusCode()
	case errors.As(err, &known):
		return known.Code
	default:
		return fiber.StatusInternalServerError
	}
}

// refund gives the tokens back where the policy says so, for what was answered. Once: what becomes of it is not known if
// it fails, and a refund sent twice would be a gift.
func (m *middleware) refund(ctx *fasthttp.RequestCtx, v *visit, status int) {
	d := &v.answer[0].Decision
	if !d.RefundOn.Has(status) {
		return
	}
	d.RefundOn = domain.StatusSet{} // an answer may fail after its header has come
	if _, err := m.limiter.Decide(contextOf(ctx), d.Refund(v.req[0])); err != nil {
		m.clients.log.Warn("A refund may be lost", zap.String("requestID", requestID(ctx)), zap.Error(err))
	}
}

func (m *middleware) decide(c *fiber.Ctx, v *visit) error {
	t, err := m.targetOf(c.Context())
	if err != nil {
		return err
	}
	// Not Fiber's RequestCtx: that ends as soon as the server starts to stop, and would fail what is in flight.
	return m.ask(c.UserContext(), c.Context(), v, t)
}

// target is what a request asks for, as policies match it.
type target struct{ method, host, path, query string }

// targetOf is the target of the request itself.
func (m *middleware) targetOf(ctx *fasthttp.RequestCtx) (target, error) {
	path, err := m.paths.Normalize(utils.UnsafeString(ctx.URI().PathOriginal()))
	return target{
		utils.UnsafeString(ctx.Method()), utils.UnsafeString(ctx.URI().Host()), path,
		utils.UnsafeString(rawQuery(&ctx.Request.Header)),
	}, err
}

// ask decides a request into v's answer.
func (m *middleware) ask(background context.Context, ctx *fasthttp.RequestCtx, v *visit, t target) error {
	v.from, v.query = &ctx.Request.Header, t.query
	req := &v.req[0]
	req.Cost, req.PolicyCost = 1, true
	peer := peerAddr(ctx)
	req.Trusted = m.clients.proxies.Trusts(peer)
	req.Method = t.method
	if req.Method == fiber.MethodHead { // else HEAD would be a second allowance for the same resource
		req.Method = fiber.MethodGet
	}
	req.Host = t.host
	req.Path = t.path
	req.Client = m.clients.client(peer, req.Trusted, v.from)
	req.Lookup = v.lookup
	req.ID = requestID(ctx)
	if span := spanOf(ctx); span != nil {
		background, req.TraceID = span.Context(), span.TraceID()
	}
	m.limiter.DecideMany(background, v.req[:], v.answer[:])
	if err := v.answer[0].Err; err != nil {
		return err
	}
	noteDecision(ctx, &v.answer[0].Decision)
	return nil
}
