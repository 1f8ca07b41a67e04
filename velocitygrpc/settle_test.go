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

// priced is a service whose calls cost what the test says, and end as it says.
type priced struct {
	healthv1.UnimplementedHealthServer
	settle func(context.Context) error
}

func (p *priced) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	return &healthv1.HealthCheckResponse{}, p.settle(ctx)
}

func (p *priced) Watch(_ *healthv1.HealthCheckRequest, stream grpc.ServerStreamingServer[healthv1.HealthCheckResponse]) error {
	if err := p.settle(stream.Context()); err != nil {
		return err
	}
	return stream.Send(&healthv1.HealthCheckResponse{})
}

// recovered makes a panic of a handler an error, as servers do.
func recovered(handle func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = status.Error(codes.Internal, "a panic")
		}
	}()
	return handle()
}

func TestSettle_byTheHandler(t *testing.T) {
	quota := velocity.Config{Limits: []velocity.Limit{velocity.Quota(1000, velocity.Year)}}
	l, err := velocity.New(quota)
	require.NoError(t, err)
	defer l.Close()
	requests, err := velocity.New(quota)
	require.NoError(t, err)
	defer requests.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	estimate := velocitygrpc.Cost(func(context.Context, string) int64 { return 50 })
	server := grpc.NewServer(
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any, err error) {
			err = recovered(func() error { answer, err = handle(ctx, req); return err })
			return answer, err
		}, velocitygrpc.UnaryServerInterceptor(requests), velocitygrpc.UnaryServerInterceptor(l, estimate)),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			return recovered(func() error { return handle(srv, stream) })
		}, velocitygrpc.StreamServerInterceptor(requests), velocitygrpc.StreamServerInterceptor(l, estimate)),
	)
	service := &priced{}
	healthv1.RegisterHealthServer(server, service)
	go func() { _ = server.Serve(ln) }()
	defer server.Stop()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	unary, stream := calls(healthv1.NewHealthClient(conn))
	asked := 0
	for name, call := range map[string]func(context.Context) error{"unary": unary, "stream": stream} {
		for _, c := range []struct {
			story  string
			settle func(context.Context) error
			cost   int64
			code   codes.Code
		}{
			{"less", func(ctx context.Context) error { return velocity.Settle(ctx, 20) }, 20, codes.OK},
			{"more", func(ctx context.Context) error { return velocity.Settle(ctx, 130) }, 130, codes.OK},
			{"the estimate", func(context.Context) error { return nil }, 50, codes.OK},
			{"an error", func(ctx context.Context) error {
				assert.NoError(t, velocity.Settle(ctx, 0))
				return status.Error(codes.NotFound, "no model")
			}, 0, codes.NotFound},
			{"a panic", func(ctx context.Context) error { panic(velocity.Settle(ctx, 20)) }, 50, codes.Internal},
		} {
			before := remaining(t, l)
			service.settle = c.settle
			assert.Equal(t, c.code, status.Code(call(t.Context())), "%s, %s", c.story, name)
			assert.Eventually(t, func() bool { return before-remaining(t, l) == c.cost }, 20*time.Second, time.Millisecond, "%s, %s", c.story, name)
			asked++
			assert.EqualValues(t, 1000-asked, remaining(t, requests), "%s, %s: it counts calls", c.story, name)
		}
	}
}

func remaining(t *testing.T, l *velocity.Limiter) int64 {
	t.Helper()
	r, err := l.Peek(t.Context(), "127.0.0.1")
	require.NoError(t, err)
	return r.Remaining
}
