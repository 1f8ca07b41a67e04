package main

import (
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry/metrics"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry/top"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/settings"
)

// BenchmarkObserved measures what metrics and top clients add to a request that is decided in memory and without sockets,
// which is the cheapest one. The target is 5 % of a request over a socket.
func BenchmarkObserved(b *testing.B) {
	cfg, err := settings.Load()
	require.NoError(b, err)
	policy, err := cfg.Policy.Single()
	require.NoError(b, err)
	source, err := app.NewSinglePolicy(policy)
	require.NoError(b, err)
	store, err := memstore.New(cfg.Memory)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, store.Close()) })

	m := metrics.New(metrics.Build{}, func(string) bool { return true })
	clients := top.New()
	b.Cleanup(func() { require.NoError(b, clients.Close()) })
	limiter := func(observer ports.Observer) ports.Limiter {
		return app.NewRateLimiter(store, store, source, observer)
	}
	for _, variant := range []struct {
		name    string
		limiter ports.Limiter
	}{
		{"without", limiter(observers{})},
		{"with", m.Measure(limiter(observers{m, clients}))},
	} {
		b.Run(variant.name, func(b *testing.B) {
			fiberApp := fiber.New()
			fiberApp.Get("/", httpfiber.RateLimitMiddleware(variant.limiter), func(c *fiber.Ctx) error { return c.SendString("x") })
			handler := fiberApp.Handler()
			var ctx fasthttp.RequestCtx
			ctx.Request.SetRequestURI("/")
			b.ReportAllocs()
			for b.Loop() {
				ctx.Response.Reset()
				ctx.ResetUserValues()
				handler(&ctx)
			}
		})
	}
}
