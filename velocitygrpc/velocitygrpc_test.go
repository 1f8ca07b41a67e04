package velocitygrpc_test

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/velocity-limiter/velocity"
	"github.com/velocity-limiter/velocity/velocitygrpc"
)

// start serves gRPC's own health service behind the interceptors.
func start(t *testing.T, cfg velocity.Config, key velocitygrpc.Key) healthv1.HealthClient {
	t.Helper()
	limiter, err := velocity.New(cfg)
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer(
		grpc.UnaryInterceptor(velocitygrpc.UnaryServerInterceptor(limiter, key)),
		grpc.StreamInterceptor(velocitygrpc.StreamServerInterceptor(limiter, key)),
	)
	healthv1.RegisterHealthServer(server, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		assert.NoError(t, <-served)
		assert.NoError(t, limiter.Close())
	})
	return healthv1.NewHealthClient(conn)
}

func byUser(ctx context.Context, _ string) string {
	if md, ok := metadata.FromIncomingContext(ctx); ok && len(md.Get("user")) == 1 {
		return md.Get("user")[0]
	}
	return ""
}

func TestInterceptors_limitEachKey(t *testing.T) {
	c := start(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(2)}}, byUser)
	as := func(user string) context.Context { return metadata.AppendToOutgoingContext(t.Context(), "user", user) }
	unary := func(ctx context.Context) error {
		_, err := c.Check(ctx, &healthv1.HealthCheckRequest{})
		return err
	}
	stream := func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := c.Watch(ctx, &healthv1.HealthCheckRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	require.NoError(t, unary(as("alice")))
	require.NoError(t, stream(as("alice")))
	for _, call := range []func(context.Context) error{unary, stream} {
		err := call(as("alice"))
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
		require.Len(t, status.Convert(err).Details(), 1)
		wait := status.Convert(err).Details()[0].(*errdetails.RetryInfo).GetRetryDelay().AsDuration()
		assert.InDelta(t, 1800, wait.Seconds(), 60)
	}
	require.NoError(t, unary(as("bob")))
	require.NoError(t, unary(t.Context()), "by the peer")
}

func TestInterceptors_withoutAKeyThePeerCounts(t *testing.T) {
	c := start(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(1)}}, nil)
	_, err := c.Check(t.Context(), &healthv1.HealthCheckRequest{})
	require.NoError(t, err)
	_, err = c.Check(t.Context(), &healthv1.HealthCheckRequest{})
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
}

func TestInterceptors_aStoreThatFails(t *testing.T) {
	c := start(t, velocity.Config{
		Limits: []velocity.Limit{velocity.PerHour(2)}, Redis: []string{"127.0.0.1:1"}, Failure: velocity.Closed,
	}, velocitygrpc.Peer)
	_, err := c.Check(t.Context(), &healthv1.HealthCheckRequest{})
	assert.Equal(t, codes.Unavailable, status.Code(err))
}

func ExampleUnaryServerInterceptor() {
	limiter, err := velocity.New(velocity.Config{Limits: []velocity.Limit{velocity.PerSecond(5).Burst(10)}})
	if err != nil {
		panic(err)
	}
	defer limiter.Close()
	server := grpc.NewServer(
		grpc.UnaryInterceptor(velocitygrpc.UnaryServerInterceptor(limiter, velocitygrpc.Peer)),
		grpc.StreamInterceptor(velocitygrpc.StreamServerInterceptor(limiter, velocitygrpc.Peer)),
	)
	defer server.Stop()
	// Output:
}
