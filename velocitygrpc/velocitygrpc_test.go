package velocitygrpc_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
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
func start(t *testing.T, cfg velocity.Config, options ...velocitygrpc.Option) healthv1.HealthClient {
	t.Helper()
	limiter, err := velocity.New(cfg)
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer(
		grpc.UnaryInterceptor(velocitygrpc.UnaryServerInterceptor(limiter, options...)),
		grpc.StreamInterceptor(velocitygrpc.StreamServerInterceptor(limiter, options...)),
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

// calls returns functions that make a call of each kind.
func calls(c healthv1.HealthClient) (unary, stream func(context.Context) error) {
	unary = func(ctx context.Context) error {
		_, err := c.Check(ctx, &healthv1.HealthCheckRequest{})
		return err
	}
	stream = func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := c.Watch(ctx, &healthv1.HealthCheckRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	return unary, stream
}

func TestInterceptors_chooseThePolicyAndSkip(t *testing.T) {
	c := start(t, velocity.Config{
		Limits:   []velocity.Limit{velocity.PerHour(1)},
		Policies: []velocity.Policy{{Name: "staff", Limits: []velocity.Limit{velocity.PerHour(2)}}},
	}, nil, velocitygrpc.Key(nil), velocitygrpc.OnDenied(nil), velocitygrpc.OnError(nil),
		velocitygrpc.Policy(func(ctx context.Context, method string) string {
			assert.Contains(t, method, "/grpc.health.v1.Health/")
			return map[string]string{"bob": "staff", "eve": "none"}[byUser(ctx, method)]
		}),
		velocitygrpc.Skip(func(ctx context.Context, method string) bool { return byUser(ctx, method) == "probe" }),
	)
	unary, stream := calls(c)
	for user, want := range map[string][]codes.Code{
		"alice": {codes.OK, codes.ResourceExhausted}, "bob": {codes.OK, codes.OK, codes.ResourceExhausted},
		"eve": {codes.Internal}, "probe": {codes.OK, codes.OK, codes.OK},
	} {
		for i, code := range want {
			call := unary
			if i%2 == 1 {
				call = stream
			}
			assert.Equal(t, code, status.Code(call(metadata.AppendToOutgoingContext(t.Context(), "user", user))), "%s %d", user, i)
		}
	}
}

func TestInterceptors_handlersAnswerDenialsAndErrors(t *testing.T) {
	var failed atomic.Pointer[error]
	c := start(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(1)}},
		velocitygrpc.Cost(func(ctx context.Context, method string) int64 { return int64(len(byUser(ctx, method))) - 1 }),
		velocitygrpc.OnDenied(func(ctx context.Context, method string, result velocity.Result) error {
			if result.RetryAfter == velocity.Never {
				return nil // a mistake, which must not let the call pass
			}
			return status.Error(codes.Aborted, byUser(ctx, method))
		}),
		velocitygrpc.OnError(func(_ context.Context, _ string, err error) error {
			failed.Store(&err)
			return status.Error(codes.InvalidArgument, "")
		}),
	)
	unary, stream := calls(c)
	as := func(user string) context.Context { return metadata.AppendToOutgoingContext(t.Context(), "user", user) }
	require.NoError(t, unary(as("al")))
	for _, call := range []func(context.Context) error{unary, stream} {
		assert.Equal(t, codes.Aborted, status.Code(call(as("al"))))
		assert.Equal(t, codes.Internal, status.Code(call(as("costly"))))
		require.NoError(t, call(as("a")), "it costs nothing")
		assert.Equal(t, codes.InvalidArgument, status.Code(call(t.Context())))
	}
	require.ErrorIs(t, *failed.Load(), velocity.ErrInvalid)
}

func TestInterceptors_limitEachKey(t *testing.T) {
	c := start(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(2)}}, velocitygrpc.Key(byUser))
	as := func(user string) context.Context { return metadata.AppendToOutgoingContext(t.Context(), "user", user) }
	unary, stream := calls(c)
	require.NoError(t, unary(as("alice")))
	require.NoError(t, stream(as("alice")))
	for _, call := range []func(context.Context) error{unary, stream} {
		err := call(as("alice"))
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
		require.ErrorContains(t, err, "a rate limit is reached: try again in ")
		require.Len(t, status.Convert(err).Details(), 1)
		wait := status.Convert(err).Details()[0].(*errdetails.RetryInfo).GetRetryDelay().AsDuration()
		assert.InDelta(t, 1800, wait.Seconds(), 60)
	}
	require.NoError(t, unary(as("bob")))
	require.NoError(t, unary(t.Context()), "by the peer")
}

func TestInterceptors_countByThePeerWithoutAKey(t *testing.T) {
	c := start(t, velocity.Config{Limits: []velocity.Limit{velocity.PerHour(1)}})
	_, err := c.Check(t.Context(), &healthv1.HealthCheckRequest{})
	require.NoError(t, err)
	_, err = c.Check(t.Context(), &healthv1.HealthCheckRequest{})
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
	require.ErrorContains(t, err, "a rate limit is reached: try again in ")
}

func TestInterceptors_aStoreThatFails(t *testing.T) {
	c := start(t, velocity.Config{
		Limits: []velocity.Limit{velocity.PerHour(2)}, Redis: []string{"127.0.0.1:1"}, Failure: velocity.Closed,
	})
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
		grpc.UnaryInterceptor(velocitygrpc.UnaryServerInterceptor(limiter)),
		grpc.StreamInterceptor(velocitygrpc.StreamServerInterceptor(limiter)),
	)
	defer server.Stop()
	// Output:
}

func ExampleUnaryServerInterceptor_options() {
	limiter, err := velocity.New(velocity.Config{
		Limits:   []velocity.Limit{velocity.PerMinute(100)},
		Policies: []velocity.Policy{{Name: "uploads", Limits: []velocity.Limit{velocity.PerMinute(1)}}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer limiter.Close()
	limit := velocitygrpc.UnaryServerInterceptor(limiter,
		velocitygrpc.Key(func(ctx context.Context, _ string) string {
			md, _ := metadata.FromIncomingContext(ctx)
			return strings.Join(md.Get("user"), "") // if a proxy sets it
		}),
		velocitygrpc.Policy(func(_ context.Context, method string) string {
			if method == "/files.Files/Put" {
				return "uploads"
			}
			return "" // the limiter's own
		}),
		velocitygrpc.Skip(func(_ context.Context, method string) bool { return method == "/grpc.health.v1.Health/Check" }),
		velocitygrpc.OnDenied(func(_ context.Context, _ string, result velocity.Result) error {
			switch {
			case result.Unavailable: // the store failed, and the policy is Closed
				return status.Error(codes.Unavailable, "try again soon")
			case result.RetryAfter == velocity.Never: // it costs more than the capacity
				return status.Error(codes.ResourceExhausted, "the call is too large")
			default:
				return status.Errorf(codes.ResourceExhausted, "again in %.1f s", result.RetryAfter.Seconds())
			}
		}),
	)
	put := func(context.Context, any) (any, error) { return "hello", nil }
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("user", "alice"))
	for range 2 {
		answer, err := limit(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/files.Files/Put"}, put)
		fmt.Println(answer, err)
	}
	// Output:
	// hello <nil>
	// <nil> rpc error: code = ResourceExhausted desc = again in 60.0 s
}
