package main

import (
	"context"
	"net"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/adapters/httpproxy"
	"github.com/velocity-limiter/velocity/internal/adapters/jwtclaims"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry/metrics"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/dataplane"
)

// dataPlane is the server of port 3000: httpproxy in front of an upstream, else httpfiber.
type dataPlane interface {
	// Listen opens the configured address. The listener is Serve's.
	Listen() (net.Listener, error)
	// Serve answers until Shutdown, and returns nil then.
	Serve(ln net.Listener) error
	// Draining reports whether Shutdown has been called.
	Draining() bool
	// Shutdown finishes what is in flight, until ctx ends.
	Shutdown(ctx context.Context) error
}

// provideDataPlane makes the data plane.
func provideDataPlane(
	cfg dataplane.Config, upstream httpproxy.Config, limiter ports.Limiter, permits ports.Permits,
	tokens *jwtclaims.Verifier, m *metrics.Metrics, tracer ports.Tracer, log *zap.Logger,
) (dataPlane, error) {
	if upstream.Enabled() {
		return newReverseProxy(cfg, upstream, limiter, permits, tokens, m, tracer, log)
	}
	s, err := httpfiber.New(cfg, limiter, permits, log)
	if err != nil {
		return nil, err
	}
	s.Trace(tracer)
	s.VerifyTokens(tokens)
	return s, nil
}

// newReverseProxy makes the data plane in front of an upstream. Without a token every path is the upstream's, so the decision
// API has none.
func newReverseProxy(
	cfg dataplane.Config, upstream httpproxy.Config, limiter ports.Limiter, permits ports.Permits,
	tokens *jwtclaims.Verifier, m *metrics.Metrics, tracer ports.Tracer, log *zap.Logger,
) (dataPlane, error) {
	var api httpproxy.API
	if cfg.APIToken != "" {
		var err error
		if api.Handler, api.MaxBody, err = httpfiber.DecisionAPI(cfg, limiter, permits, tracer, log); err != nil {
			return nil, err
		}
	}
	s, err := httpproxy.New(cfg, upstream, limiter, permits, api, log)
	if err != nil {
		return nil, err
	}
	s.OnUpstream(m.WatchUpstream().Answered)
	s.ObserveCosts(m)
	s.Trace(tracer)
	s.VerifyTokens(tokens)
	return s, nil
}
