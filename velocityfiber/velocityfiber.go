// Package velocityfiber puts a limiter in front of a Fiber app.
//
// Packages velocityhttp and velocitygrpc have the same options, for their servers.
package velocityfiber

import (
	"log/slog"
	"runtime"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity"
)

// Option adjusts [Middleware]. Its functions are called by the goroutines of requests, so they must be safe for concurrent use. A nil
// Option or function changes nothing.
type Option func(*middleware)

// Key sets the function that returns the key of a request. Without it, or if the key is empty, a request counts for the address
// of the connection's peer. The app's proxy settings have no effect here: the function must check a header such as
// X-Forwarded-For itself, which clients can set unless a proxy of yours does. The key is copied.
func Key(key func(*fiber.Ctx) string) Option { return func(m *middleware) { m.key = key } }

// Cost sets the function that returns the cost of a request in tokens. Without it a request costs one token. A request of cost
// 0 passes, and a negative cost is an error. If the cost is an estimate, the handler reports by [velocity.Settle] what it was in the end,
// with c.UserContext(), which a writer of a stream keeps, since it must not use c.
func Cost(cost func(*fiber.Ctx) int64) Option { return func(m *middleware) { m.cost = cost } }

// Policy sets the function that returns the name of the policy for a request. Without it, or if the name is empty, the policy
// of the limiter applies. A name without a policy is an error. If all requests have one policy, give its limiter, from
// [velocity.Limiter.Policy], to Middleware instead. The name is copied.
func Policy(policy func(*fiber.Ctx) string) Option {
	return func(m *middleware) { m.policy = policy }
}

// Skip sets the function that reports whether a request passes without a decision. Its answer gets no header fields.
func Skip(skip func(*fiber.Ctx) bool) Option { return func(m *middleware) { m.skip = skip } }

// OnDenied sets the function that answers a request that may not pass. The header fields of the decision are added after it.
// Without it the answer is a problem detail: status 429, or 503 if the store failed and the policy is closed.
func OnDenied(answer func(*fiber.Ctx, velocity.Result) error) Option {
	return func(m *middleware) {
		if answer != nil {
			m.onDenied = answer
		}
	}
}

// OnError sets the function that answers a request that could not be decided: its context has ended, its cost is negative, or
// there is no policy of the name that Policy returned. Without it the error is logged to slog.Default(), and the app's error
// handler gets fiber.ErrInternalServerError.
func OnError(answer func(*fiber.Ctx, error) error) Option {
	return func(m *middleware) {
		if answer != nil {
			m.onError = answer
		}
	}
}

type middleware struct {
	limiter  *velocity.Limiter
	key      func(*fiber.Ctx) string
	cost     func(*fiber.Ctx) int64
	policy   func(*fiber.Ctx) string
	skip     func(*fiber.Ctx) bool
	onDenied func(*fiber.Ctx, velocity.Result) error
	onError  func(*fiber.Ctx, error) error
}

// Middleware returns a handler that calls the next one only if the request may pass, and adds the header fields of the decision
// to the answer. OnDenied and OnError answer the other requests.
//
// Under a policy with a concurrency limit a request holds a permit until the next handler returns or panics; if the answer is a stream,
// until it has been sent or cannot be sent any more; and if the connection is hijacked, as for a WebSocket, until its handler returns.
// Fiber does not notice a client that leaves unless it sends something. Under a policy with [velocity.Policy.MaxWait] a request
// may wait before the next handler is called, as in [velocity.Limiter.Acquire].
func Middleware(limiter *velocity.Limiter, options ...Option) fiber.Handler {
	m := &middleware{limiter: limiter, onDenied: problem, onError: internalError}
	for _, set := range options {
		if set != nil {
			set(m)
		}
	}
	return m.handle
}

func (m *middleware) handle(c *fiber.Ctx) error {
	if m.skip != nil && m.skip(c) {
		return c.Next()
	}
	permit, err := m.acquire(c)
	if err != nil {
		return m.onError(c, err)
	}
	end := permit.Abort // unless the handlers return
	defer func() { whenAnswered(c.Context(), end) }()
	defer permit.HeaderFields(func(field, value string) { // last, since a later handler may clear the header
		c.Context().Response.Header.SetCanonical([]byte(field), []byte(value)) // in this spelling
	})
	switch {
	case !permit.Allowed:
		err = m.onDenied(c, permit.Result)
	case m.cost != nil:
		c.SetUserContext(velocity.WithPermit(c.UserContext(), permit))
		fallthrough
	default:
		err = c.Next()
	}
	end = permit.Release
	return err
}

// whenAnswered ends a permit when the answer has ended. fasthttp sends streams, and serves hijacked connections, after the
// handlers have returned, and closes the request's user values after that. Where another server uses the app it may not; then the
// permit ends when the memory of the request is collected.
func whenAnswered(ctx *fasthttp.RequestCtx, end func()) {
	if !ctx.Response.IsBodyStream() && !ctx.Hijacked() {
		end()
		return
	}
	last := &ending{end}
	runtime.AddCleanup(last, func(end func()) { end() }, end)
	ctx.SetUserValue(last, last) // a key of its own, since a request may pass several limits
}

// ending ends a permit when it is closed.
type ending struct{ end func() }

// Close implements io.Closer.
func (e *ending) Close() error {
	e.end()
	return nil
}

func (m *middleware) acquire(c *fiber.Ctx) (*velocity.Permit, error) {
	limiter, key, cost := m.limiter, "", int64(1)
	if m.key != nil {
		key = utils.CopyString(m.key(c)) // fasthttp reuses its memory
	}
	if m.cost != nil {
		cost = m.cost(c)
	}
	name := ""
	if m.policy != nil {
		name = utils.CopyString(m.policy(c))
	}
	if name != "" {
		var err error
		if limiter, err = limiter.Policy(name); err != nil {
			return nil, err
		}
	}
	if key == "" {
		key = velocity.Address(c.Context().RemoteAddr().String())
	}
	permit, err := limiter.Acquire(c.UserContext(), key, cost)
	if err == nil && !permit.Detach() { // what the context ends is not the answer
		err = c.UserContext().Err()
	}
	return permit, err
}

func problem(c *fiber.Ctx, result velocity.Result) error {
	status, body := result.Problem()
	c.Status(status).Set(fiber.HeaderContentType, velocity.ProblemType)
	return c.Send(body)
}

func internalError(c *fiber.Ctx, err error) error {
	if c.UserContext().Err() == nil {
		slog.ErrorContext(c.UserContext(), "velocity: a request could not be decided", "error", err)
	}
	return fiber.ErrInternalServerError
}
