// Package velocitygrpc puts a limiter in front of a gRPC server.
package velocitygrpc

import (
	"context"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/velocity-limiter/velocity"
)

// Key says who a call counts for; empty: the connection's peer. method is the call's full name. A nil Key is [Peer].
type Key func(ctx context.Context, method string) string

// Peer counts by the address of the connection's peer.
func Peer(context.Context, string) string { return "" }

// UnaryServerInterceptor takes a token for each call. One that may not pass ends with ResourceExhausted, and details that
// say after what time it would; or with Unavailable, where the store failed and the policy is closed.
func UnaryServerInterceptor(limiter *velocity.Limiter, key Key) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if err := allow(ctx, limiter, key, info.FullMethod); err != nil {
			return nil, err
		}
		return handle(ctx, req)
	}
}

// StreamServerInterceptor takes a token for each stream, when it is opened. Its messages cost nothing.
func StreamServerInterceptor(limiter *velocity.Limiter, key Key) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		if err := allow(stream.Context(), limiter, key, info.FullMethod); err != nil {
			return err
		}
		return handle(srv, stream)
	}
}

func allow(ctx context.Context, limiter *velocity.Limiter, keyOf Key, method string) error {
	key := ""
	if keyOf != nil {
		key = keyOf(ctx, method)
	}
	if p, ok := peer.FromContext(ctx); key == "" && ok {
		key = velocity.Address(p.Addr.String())
	}
	r, err := limiter.Take(ctx, key, 1)
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case err != nil:
		return status.Error(codes.Internal, "the call cannot be decided")
	case r.Allowed:
		return nil
	case r.Unavailable:
		return status.Error(codes.Unavailable, "the rate limit's store does not answer")
	}
	denied := status.New(codes.ResourceExhausted, "a rate limit is reached")
	if r.RetryAfter == velocity.Never {
		return denied.Err()
	}
	if detailed, err := denied.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(r.RetryAfter)}); err == nil {
		denied = detailed
	}
	return denied.Err()
}
