package main

import (
	"context"
	"net"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// grpcDoor is the door for Envoy, which is off until its address is set. Every method of a door that is off does nothing.
type grpcDoor struct {
	cfg    grpcenvoy.Config
	server *grpcenvoy.Server
	ln     net.Listener
}

func provideGRPCDoor(
	cfg grpcenvoy.Config, http httpfiber.Config, policy policyConfig, limiter ports.Limiter, tracer ports.Tracer, log *zap.Logger,
) (*grpcDoor, error) {
	if !cfg.Enabled() {
		return &grpcDoor{}, nil
	}
	cfg.DrainPeriod, cfg.OnStoreFailure = http.DrainPeriod, policy.OnStoreFailure
	server, err := grpcenvoy.New(cfg, limiter, log)
	if err != nil {
		return nil, err
	}
	server.Trace(tracer)
	return &grpcDoor{cfg: cfg, server: server}, nil
}

// listen opens the port.
func (d *grpcDoor) listen() (err error) {
	if d.server != nil {
		d.ln, err = d.server.Listen()
	}
	return err
}

// serve answers until shutdown, and tells failed when that ends.
func (d *grpcDoor) serve(failed chan<- error) {
	if d.server != nil {
		go func() { failed <- d.server.Serve(d.ln) }()
	}
}

func (d *grpcDoor) shutdown(ctx context.Context) error {
	if d.server == nil {
		return nil
	}
	return d.server.Shutdown(ctx)
}

func (d *grpcDoor) logStart(log *zap.Logger) {
	if d.server == nil {
		return
	}
	log.Info("Envoy's rate limit service", zap.Stringer("grpcAddr", d.ln.Addr()), zap.Bool("tls", d.cfg.TLSCertFile != ""),
		zap.Bool("clientCertificates", d.cfg.ClientCAFile != ""), zap.Int("rules", d.server.Rules()))
	if d.cfg.Exposed() {
		log.Warn("The gRPC door is reachable from other machines without TLS: whoever reaches it can spend for anyone. " +
			"Set VELOCITY_GRPC_TLS_CERT_FILE, VELOCITY_GRPC_TLS_KEY_FILE and VELOCITY_GRPC_CLIENT_CA_FILE")
	}
}
