//go:build wireinject

package main

import (
	"github.com/google/wire"

	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
	"github.com/velocity-limiter/velocity/internal/app"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// One set per room. What a room needs from another it gets as a port.
var (
	configSet = wire.NewSet(
		wire.FieldsOf(new(config), "Policy", "HTTP", "GRPC", "Admin", "Store", "Redis", "Shortcut", "Memory", "Log"),
	)
	telemetrySet = wire.NewSet(
		provideZap,
		provideTracer,
		telemetry.NewDecisionLog,
		provideMetrics,
		provideTop,
		provideObserver,
	)
	storeSet = wire.NewSet(
		provideStore,
		provideLocalStore,
	)
	appSet = wire.NewSet(
		providePolicies,
		provideLimiter,
		wire.Bind(new(ports.PolicySource), new(*policies)),
		provideMeasuredLimiter,
		wire.Bind(new(ports.Inspector), new(*app.RateLimiter)),
	)
	httpSet = wire.NewSet(
		provideServer,
		provideGRPCDoor,
		provideAdmin,
		provideServiceState,
	)
)

// newService puts the rooms together. The cleanup closes what was opened, in the reverse order.
func newService(cfg config, log *telemetry.Logger) (*service, func(), error) {
	panic(wire.Build(configSet, telemetrySet, storeSet, appSet, httpSet, wire.Struct(new(service), "*")))
}
