package grpcenvoy

import (
	"context"
	"errors"
	"net"
	"strconv"
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
	"github.com/velocity-limiter/velocity/internal/violation"
)

// Bounds of the memory that a client can use.
const (
	maxMessage = 64 << 10
	// maxStreams is per connection. Further calls wait in the client.
	maxStreams = 1024
	// helloTimeout bounds the handshake of a connection, idleTimeout the time without calls.
	helloTimeout = 5 * time.Second
	idleTimeout  = 15 * time.Minute
	// workers is the number of goroutines that answer calls. Further calls get a goroutine of their own.
	workers = 512
	// pingInterval is the shortest interval at which a client may ping an idle connection. Envoy pings far less often.
	pingInterval = 5 * time.Second
)

// Server serves the Rate Limit Service. Make it with New.
type Server struct {
	cfg     Config
	grpc    *grpc.Server
	health  *health.Server
	service *service
}

// New returns a server that asks limiter, and loads the rules. It does not listen yet. The error joins all violations.
func New(cfg Config, limiter ports.Limiter, log *zap.Logger) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, health: health.NewServer()}
	var rules *envoyconfig.Live
	if cfg.RulesPath != "" {
		var err error
		if rules, err = envoyconfig.Open(cfg.RulesPath, cfg.rules(), log); err != nil {
			return nil, errors.Join(&violation.Error{Setting: "ENVOY_CONFIG", Value: strconv.Quote(cfg.RulesPath), Reason: "is not supported"}, err)
		}
	}
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(8 << 10),
		grpc.ConnectionTimeout(helloTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingInterval, PermitWithoutStream: true}),
		// A reused worker has a stack that has already grown; growing it took a tenth of the time of a call. Most workers
		// wait for the store at any time.
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
	s.service = newService(limiter, rules, cfg.rules(), log)
	s.service.headers = cfg.Headers
	rlsv3.RegisterRateLimitServiceServer(s.grpc, s.service)
	healthv1.RegisterHealthServer(s.grpc, s.health)
	s.health.SetServingStatus(rlsv3.RateLimitService_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	reflection.Register(s.grpc)
	return s, nil
}

// Rules are the rules of Config.RulesPath. They are followed only while [filewatch.Live.Watch] runs. Nil: only policies decide.
func (s *Server) Rules() *envoyconfig.Live { return s.service.rules }

// Listen opens the configured address. Pass the listener to Serve.
func (s *Server) Listen() (net.Listener, error) { return net.Listen("tcp", s.cfg.Addr) }

// Serve answers calls on ln until Shutdown, and then returns nil. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	return s.grpc.Serve(ln)
}

// Shutdown stops the server without losing a call. The health check reports not serving at once, but calls are answered for
// the drain period. Then clients are asked to start no new calls, and the calls in flight are finished. If ctx ends first,
// Shutdown closes all connections and returns the context's error.
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
