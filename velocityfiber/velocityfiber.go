// Package velocityfiber puts a limiter in front of a Fiber app.
package velocityfiber

import (
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"

	"github.com/velocity-limiter/velocity"
)

// New returns a handler that takes a token for each request and calls the next one only if it may pass. key says who a
// request counts for; nil, or an empty key: the connection's peer. A request that may not pass is answered with a problem
// detail: 429, or 503 where the store failed and the policy is closed. What the app's configuration says about proxies has
// no effect here: a key from X-Forwarded-For is for the app to judge.
func New(limiter *velocity.Limiter, key func(*fiber.Ctx) string) fiber.Handler {
	return func(c *fiber.Ctx) error {
		name := ""
		if key != nil {
			name = utils.CopyString(key(c)) // fasthttp uses its memory again
		}
		if name == "" {
			name = velocity.Address(c.Context().RemoteAddr().String())
		}
		result, err := limiter.Take(c.UserContext(), name, 1)
		if err != nil {
			return fiber.ErrInternalServerError
		}
		tell := func() {
			result.HeaderFields(func(field, value string) {
				c.Context().Response.Header.SetCanonical([]byte(field), []byte(value)) // as it is spelled
			})
		}
		if result.Allowed {
			defer tell() // last, since what follows may clear the header
			return c.Next()
		}
		status, body := result.Problem()
		c.Status(status).Set(fiber.HeaderContentType, velocity.ProblemType)
		tell()
		return c.Send(body)
	}
}
