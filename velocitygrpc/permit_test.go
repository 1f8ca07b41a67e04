package velocitygrpc_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/velocitygrpc"
)

// slow is a service whose calls end when end says so.
type slow struct {
	healthv1.UnimplementedHealthServer
	begun chan context.Context
	end   chan struct{}
}

func (s *slow) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	s.begun <- ctx
	<-s.end
	return &healthv1.HealthCheckResponse{}, nil
}

func (s *slow) Watch(_ *healthv1.HealthCheckRequest, stream grpc.ServerStreamingServer[healthv1.HealthCheckResponse]) error {
	s.begun <- stream.Context()
	<-s.end
	return stream.Send(&healthv1.HealthCheckResponse{})
}

func TestPermit_endsWithTheHandler(t *testing.T) {
	l, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.Concurrent(1)}})
	require.NoError(t, err)
	defer l.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer(grpc.UnaryInterceptor(velocitygrpc.UnaryServerInterceptor(l)), grpc.StreamInterceptor(velocitygrpc.StreamServerInterceptor(l)))
	service := &slow{begun: make(chan context.Context, 1), end: make(chan struct{})}
	healthv1.RegisterHealthServer(server, service)
	go func() { _ = server.Serve(ln) }()
	defer server.Stop()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	unary, stream := calls(healthv1.NewHealthClient(conn))
	held := func() bool {
		r, err := l.Peek(t.Context(), "127.0.0.1")
		require.NoError(t, err)
		return r.Remaining == 0
	}
	for name, call := range map[string]func(context.Context) error{"unary": unary, "stream": stream} {
		for _, leaves := range []bool{false, true} {
			ctx, leave := context.WithCancel(t.Context())
			over := make(chan error, 1)
			go func() { over <- call(ctx) }()
			handler := <-service.begun
			assert.True(t, held(), name)
			assert.Equal(t, codes.ResourceExhausted, status.Code(call(t.Context())), name)
			if leaves {
				leave()
				<-handler.Done()
				time.Sleep(20 * time.Millisecond)
				assert.True(t, held(), "%s: its handler goes on", name)
			}
			service.end <- struct{}{}
			assert.Eventually(t, func() bool { return !held() }, 5*time.Second, time.Millisecond, name)
			assert.Equal(t, leaves, <-over != nil, name)
			leave()
		}
	}
}
