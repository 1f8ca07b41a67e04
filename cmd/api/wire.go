//go:build wireinject

package main

import (
	"github.com/google/wire"

	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/settings"
)

// newService composes the service. The cleanup closes what was opened, in the reverse order.
func newService(cfg settings.Config, log *telemetry.Logger) (*service, func(), error) {
	panic(wire.Build(
		wire.FieldsOf(new(settings.Config), "Policy", "Waiting", "HTTP", "Upstream", "GRPC", "Admin", "Store", "Redis", "DenialCache", "Memory", "Sizes", "Log"),
		wire.FieldsOf(new(*telemetry.Logger), "Logger"),
		provideTracer, telemetry.NewDecisionLog, provideMetrics, provideTop, provideObserver,
		provideStore, provideLocalStore, provideOverrides,
		providePolicies, wire.Bind(new(ports.PolicySource), new(*policies)), provideTokens,
		provideLimiter, wire.Bind(new(ports.Permits), new(*app.RateLimiter)), provideMeasuredLimiter,
		provideDataPlane, provideGRPCListener, provideReloader, provideAdmin,
		wire.Struct(new(service), "*"),
	))
}
