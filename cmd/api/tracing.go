package main

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/telemetry/tracing"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// flushTimeout bounds how long the end waits for a collector that does not answer.
const flushTimeout = time.Second

// provideTracer makes what the variables of OpenTelemetry ask for; nil if they ask for nothing. The cleanup sends what
// is recorded.
func provideTracer(log *zap.Logger) (ports.Tracer, func(), error) {
	v, _ := built()
	t, err := tracing.New(context.Background(), v, func(err error) { log.Warn("OpenTelemetry", zap.Error(err)) })
	if t == nil {
		return nil, func() {}, err
	}
	return t, func() {
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		if err := t.Shutdown(ctx); err != nil {
			log.Warn("Traces may be lost", zap.Error(err))
		}
	}, nil
}
