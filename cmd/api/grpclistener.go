package main

import (
	"context"
	"net"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry/metrics"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/settings"
	"github.com/velocity-limiter/velocity/internal/web/dataplane"
)

// grpcListener serves Envoy's rate limit service. Without an address it is off, and its methods do nothing.
type grpcListener struct {
	cfg    grpcenvoy.Config
	server *grpcenvoy.Server
	ln     net.Listener
}

func provideGRPCListener(
	cfg grpcenvoy.Config, http dataplane.Config, policy settings.Policy, limiter ports.Limiter, m *metrics.Metrics, tracer ports.Tracer, log *zap.Logger,
) (*grpcListener, error) {
	if !cfg.Enabled() {
		return &grpcListener{}, nil
	}
	cfg.DrainPeriod, cfg.OnStoreFailure, cfg.Headers = http.DrainPeriod, policy.OnStoreFailure, http.Headers()
	server, err := grpcenvoy.New(cfg, limiter, log)
	if err != nil {
		return nil, err
	}
	server.Trace(tracer)
	if rules := server.Rules(); rules != nil {
		m.WatchEnvoyReloads(func() (uint64, uint64, bool) {
			attempts := rules.Attempts()
			return attempts.Reloaded, attempts.Failed, attempts.Stale
		})
	}
	return &grpcListener{cfg: cfg, server: server}, nil
}

// listen opens the port.
func (l *grpcListener) listen() (err error) {
	if l.server != nil {
		l.ln, err = l.server.Listen()
	}
	return err
}

// serve answers in a goroutine until shutdown, and then sends the error of the server to failed.
func (l *grpcListener) serve(failed chan<- error) {
	if l.server != nil {
		go func() { failed <- l.server.Serve(l.ln) }()
	}
}

func (l *grpcListener) shutdown(ctx context.Context) error {
	if l.server == nil {
		return nil
	}
	return l.server.Shutdown(ctx)
}

func (l *grpcListener) logStart(log *zap.Logger) {
	if l.server == nil {
		return
	}
	rules := 0
	if live := l.server.Rules(); live != nil {
		rules = live.Current().Len()
	}
	log.Info("Envoy's rate limit service", zap.Stringer("grpcAddr", l.ln.Addr()), zap.Bool("tls", l.cfg.TLSCertFile != ""),
		zap.Bool("clientCertificates", l.cfg.ClientCAFile != ""), zap.Int("rules", rules),
		zap.String("limits", l.cfg.Limits))
	if l.cfg.Exposed() {
		log.Warn("The gRPC port is reachable from other machines without TLS: whoever reaches it can spend for anyone. " +
			"Set VELOCITY_GRPC_TLS_CERT_FILE, VELOCITY_GRPC_TLS_KEY_FILE and VELOCITY_GRPC_CLIENT_CA_FILE")
	}
}
