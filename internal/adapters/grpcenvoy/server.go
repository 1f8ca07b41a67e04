package grpcenvoy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Bounds of what one client can make the server hold.
const (
	maxMessage = 64 << 10
	// maxStreams is per connection: calls beyond it wait at the client.
	maxStreams = 1024
	// helloTimeout bounds the handshakes of a new connection, idleTimeout one without calls.
	helloTimeout = 5 * time.Second
	idleTimeout  = 15 * time.Minute
	// workers answer calls; beyond them each call has a goroutine of its own.
	workers = 512
	// ballastBytes is how much the collector takes for alive beside what is: it is never touched, and so never in memory,
	// but the next collection waits until as much garbage has been made. gRPC makes some 8 KiB a call, and a small
	// service's heap would be collected many times a second.
	ballastBytes = 64 << 20
	// pingInterval is the most often that a client may ping an idle connection; Envoy's keepalive is far slower.
	pingInterval = 5 * time.Second
)

// Server is the door. Make it with New.
type Server struct {
	cfg     Config
	grpc    *grpc.Server
	health  *health.Server
	rules   *envoyconfig.Rules
	service *service

	ballast []byte
}

// New builds the server over limiter, and reads the rules. It opens nothing. The error joins all that is wrong.
func New(cfg Config, limiter ports.Limiter, log *zap.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, health: health.NewServer(), ballast: make([]byte, ballastBytes)}
	if cfg.RulesPath != "" {
		var err error
		if s.rules, err = envoyconfig.Load(cfg.RulesPath, cfg.OnStoreFailure); err != nil {
			return nil, errors.Join(fmt.Errorf("%sENVOY_CONFIG: %q: cannot be honoured", envPrefix, cfg.RulesPath), err)
		}
	}
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(8 << 10),
		grpc.ConnectionTimeout(helloTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingInterval, PermitWithoutStream: true}),
		// A worker that is used again has its stack grown already: growing it was a tenth of a call. Most of them wait for
		// the store at a time.
		grpc.NumStreamWorkers(workers),
	}
	tlsConfig, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	if tlsConfig != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(tlsConfig)))
	}
	s.grpc = grpc.NewServer(options...)
	s.service = newService(limiter, s.rules, cfg.OnStoreFailure, log)
	rlsv3.RegisterRateLimitServiceServer(s.grpc, s.service)
	healthv1.RegisterHealthServer(s.grpc, s.health)
	s.health.SetServingStatus(rlsv3.RateLimitService_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	reflection.Register(s.grpc)
	return s, nil
}

// Rules is how many rules the configuration has.
func (s *Server) Rules() int { return s.rules.Len() }

// Listen opens the configured address. The listener is Serve's.
func (s *Server) Listen() (net.Listener, error) { return net.Listen("tcp", s.cfg.Addr) }

// Serve answers on ln until Shutdown, and returns nil then; it closes ln.
func (s *Server) Serve(ln net.Listener) error {
	defer runtime.KeepAlive(s.ballast)
	return s.grpc.Serve(ln)
}

// Shutdown stops the server without losing a call. It says by its health that it is leaving, and for the drain period
// still answers; then clients are told to open no more calls, and what is in flight is finished. When ctx ends first,
// everything is cut off and the context's error returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.health.Shutdown()
	period := time.NewTimer(s.cfg.DrainPeriod)
	defer period.Stop()
	select {
	case <-period.C:
	case <-ctx.Done():
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
		return ctx.Err()
	}
}
