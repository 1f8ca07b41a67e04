package httpfiber_test

import (
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
)

// BenchmarkMiddleware compares, without sockets, a limited route with a bare Fiber handler that sends the same headers
// and body. The limiter costs nothing, so what is left is this package.
func BenchmarkMiddleware(b *testing.B) {
	allowed, deniedOne := decided(b, 9, 1, true), decided(b, 0, 1, false)
	limited := fiber.New(fiber.Config{CaseSensitive: true, StrictRouting: true})
	limited.Get("/allowed", httpfiber.RateLimitMiddleware(always(allowed)), message)
	limited.Get("/denied", httpfiber.RateLimitMiddleware(always(deniedOne)), message)

	bare := fiber.New(fiber.Config{CaseSensitive: true, StrictRouting: true})
	bare.Get("/allowed", func(c *fiber.Ctx) error {
		c.Set("X-RateLimit-Limit", "10")
		c.Set("RateLimit-Policy", `"burst";q=10;w=2`)
		c.Set("X-RateLimit-Remaining", "9")
		c.Set("RateLimit", `"burst";r=9;t=1`)
		c.Set("X-Request-Id", "0123456789abcdef0123456789abcdef")
		return message(c)
	})
	body := answerOf(b, limited.Handler(), "/denied")
	bare.Get("/denied", func(c *fiber.Ctx) error {
		c.Set("X-RateLimit-Limit", "10")
		c.Set("RateLimit-Policy", `"burst";q=10;w=2`)
		c.Set("X-RateLimit-Remaining", "0")
		c.Set("RateLimit", `"burst";r=0;t=1`)
		c.Set("X-RateLimit-Retry-After", "1")
		c.Set("Retry-After", "1")
		c.Set("X-Request-Id", "0123456789abcdef0123456789abcdef")
		c.Set("Content-Type", "application/problem+json")
		return c.Status(429).Send(body)
	})
	for _, path := range []string{"/allowed", "/denied"} {
		for name, app := range map[string]*fiber.App{"velocity": limited, "bare": bare} {
			b.Run(name+path, func(b *testing.B) { benchmark(b, app.Handler(), path) })
		}
	}
}

func message(c *fiber.Ctx) error {
	c.Set("Content-Type", "application/json")
	return c.SendString(`{"message":"The request was within its limits."}`)
}

func answerOf(b *testing.B, handler fasthttp.RequestHandler, path string) []byte {
	var ctx fasthttp.RequestCtx
	ctx.Request.SetRequestURI(path)
	handler(&ctx)
	require.NotEmpty(b, ctx.Response.Body())
	return append([]byte(nil), ctx.Response.Body()...)
}

func benchmark(b *testing.B, handler fasthttp.RequestHandler, path string) {
	var ctx fasthttp.RequestCtx
	ctx.Request.Header.SetHost("localhost:3000")
	ctx.Request.SetRequestURI(path)
	b.ReportAllocs()
	for b.Loop() {
		ctx.Response.Reset()
		ctx.ResetUserValues()
		handler(&ctx)
	}
}
