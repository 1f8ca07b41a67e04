// Package httpfiber is the data plane on Fiber: RateLimitMiddleware, and a server that mounts the packages below it.
//
// A request passes httpserver, which bounds it and normalizes its path. Then decider asks the Limiter, for the middleware
// or forwardauth; decisionapi asks it itself. reply writes the answer. The admin plane is package admin.
//
// What it promises:
//
//   - A request is decided exactly once, for one normal form of its path and one address of its client. No other
//     spelling of either passes a limit.
//   - Every error is answered with a problem (RFC 9457), whose status package problem decides. An answer holds no stack
//     trace, no address of a store and nothing about another client.
//   - Strings of Fiber are valid inside the handler only. What a Limiter keeps longer than the request, such as the
//     value of a key, is a copy.
//
// It does not authenticate end clients: if a policy's key is a header, the client can send any value.
package httpfiber

import (
	"errors"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/decider"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/reply"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
	"github.com/velocity-limiter/velocity/internal/web/clientid"
)

// RateLimitMiddleware returns a handler that decides each request and calls the next handler only if it is allowed.
// The answer has the rate limit headers, even if the next handler returns an error or panics. A denied request is answered
// with a problem: 429, or 503 if the store failed and the policy fails closed. A request that cannot be decided is refused.
// If the policy has refund_on and the answer has one of its statuses, the tokens are given back; after a panic they are not.
// A policy with a concurrency limit needs [WithPermits]; without it the answer is 501.
//
// The middleware works in any Fiber app. The client is the connection's peer; behind a proxy, see [WithTrustedProxies].
// Fiber's own settings for proxies have no effect on it.
func RateLimitMiddleware(limiter ports.Limiter, options ...Option) fiber.Handler {
	var cfg decider.Config
	for _, set := range options {
		set(&cfg)
	}
	return limited(decider.New(limiter, cfg))
}

// Option adjusts RateLimitMiddleware.
type Option func(*decider.Config)

// WithTrustedProxies names the peers whose X-Forwarded-For names the client. Without it, no proxy is trusted.
func WithTrustedProxies(p clientid.Proxies) Option { return func(c *decider.Config) { c.Proxies = p } }

// WithPaths sets the rules for the normal form of paths. Without it, an encoded slash is refused.
func WithPaths(r cleanpath.Rules) Option { return func(c *decider.Config) { c.Paths = r } }

// WithPermits has requests hold the permits that the limiter grants, from the decision until the answer has ended: when the next
// handler has returned or panicked, a stream has been sent or broken off, or a hijacked connection has ended. Requests then also
// wait before they go on, as long as the policy's max_wait. fasthttp does not notice a client that leaves meanwhile.
func WithPermits(p ports.Permits) Option {
	return func(c *decider.Config) { c.Permits, c.Waits = p, true }
}

// WithLogger logs, once, that the X-Forwarded-For of an untrusted peer is ignored. Without it, nothing is logged.
func WithLogger(log *zap.Logger) Option { return func(c *decider.Config) { c.Log = log } }

func limited(d *decider.Decider) fiber.Handler {
	return func(c *fiber.Ctx) error {
		ctx := c.Context()
		s := d.Scratch()
		defer d.Release(s)
		t, err := d.Target(ctx)
		if err == nil {
			// Not Fiber's RequestCtx, which is done as soon as the server starts to stop: decisions in flight would fail.
			err = d.Decide(c.UserContext(), ctx, s, t)
		}
		if err != nil {
			reply.Error(ctx, err)
			return nil
		}
		decision := s.Decision()
		if !decision.Allowed() {
			d.Deny(ctx, s, 0)
			return nil
		}
		defer d.End(ctx, s)
		// Deferred because the next handler may panic. It runs last because that handler may clear the headers.
		defer d.SetHeaders(ctx, s)
		err = c.Next()
		if !decision.RefundOn.Empty() {
			d.Refund(ctx, s, statusOf(ctx, err))
		}
		return err
	}
}

// statusOf returns the answer's status. For a handler's error, it is the status that Fiber answers with.
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
