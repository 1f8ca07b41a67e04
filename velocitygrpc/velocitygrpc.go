// Package velocitygrpc puts a limiter in front of a gRPC server.
//
// Packages velocityhttp and velocityfiber have the same options, for their servers.
package velocitygrpc

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/velocity-limiter/velocity"
)

// Option adjusts an interceptor. Its functions get the context of a call and the full name of its method, "/package.Service/Method".
// They are called by the goroutines of calls, so they must be safe for concurrent use. A nil
// Option or function changes nothing.
type Option func(*interceptor)

// Key sets the function that returns the key of a call. Without it, or if the key is empty, a call counts for the address of the
// connection's peer. The function must not use metadata that clients can set, unless a proxy of yours sets it.
func Key(key func(ctx context.Context, method string) string) Option {
	return func(i *interceptor) { i.key = key }
}

// Cost sets the function that returns the cost of a call in tokens. Without it a call costs one token. A call of cost 0 passes,
// and a negative cost is an error. If the cost is an estimate, the handler reports by [velocity.Settle], with the context of the call
// or the stream, what it was in the end.
func Cost(cost func(ctx context.Context, method string) int64) Option {
	return func(i *interceptor) { i.cost = cost }
}

// Policy sets the function that returns the name of the policy for a call. Without it, or if the name is empty, the policy of the
// limiter applies. A name without a policy is an error. If all calls have one policy, give its limiter, from
// [velocity.Limiter.Policy], to the interceptor instead.
func Policy(policy func(ctx context.Context, method string) string) Option {
	return func(i *interceptor) { i.policy = policy }
}

// Skip sets the function that reports whether a call passes without a decision.
func Skip(skip func(ctx context.Context, method string) bool) Option {
	return func(i *interceptor) { i.skip = skip }
}

// OnDenied sets the function that returns the error of a call that may not pass. It must not return nil: the call then ends with
// Internal. Without it the call ends with ResourceExhausted and a RetryInfo, or with Unavailable if the store failed and the
// policy is closed.
func OnDenied(answer func(ctx context.Context, method string, result velocity.Result) error) Option {
	return func(i *interceptor) {
		if answer != nil {
			i.onDenied = answer
		}
	}
}

// OnError sets the function that returns the error of a call that could not be decided: its context has ended, its cost is
// negative, or there is no policy of the name that Policy returned. It must not return nil, as OnDenied. Without it the call
// ends with the code of the context's error, or the error is logged to slog.Default() and the call ends with Internal.
func OnError(answer func(ctx context.Context, method string, err error) error) Option {
	return func(i *interceptor) {
		if answer != nil {
			i.onError = answer
		}
	}
}

type interceptor struct {
	limiter  *velocity.Limiter
	key      func(context.Context, string) string
	cost     func(context.Context, string) int64
	policy   func(context.Context, string) string
	skip     func(context.Context, string) bool
	onDenied func(context.Context, string, velocity.Result) error
	onError  func(context.Context, string, error) error
}

func newInterceptor(limiter *velocity.Limiter, options []Option) *interceptor {
	i := &interceptor{limiter: limiter, onDenied: denied, onError: undecided}
	for _, set := range options {
		if set != nil {
			set(i)
		}
	}
	return i
}

// UnaryServerInterceptor decides each call, and calls the handler only if it may pass. OnDenied and OnError end the others.
//
// Under a policy with a concurrency limit a call holds a permit until the handler returns or panics, also if its client leaves before.
// Under a policy with [velocity.Policy.MaxWait] a call may wait before the handler is called, as in [velocity.Limiter.Acquire].
func UnaryServerInterceptor(limiter *velocity.Limiter, options ...Option) grpc.UnaryServerInterceptor {
	i := newInterceptor(limiter, options)
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		permit, err := i.acquire(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		if permit == nil {
			return handle(ctx, req)
		}
		defer permit.Abort() // if the handler panics
		answer, err := handle(i.context(ctx, permit), req)
		permit.Release()
		return answer, err
	}
}

// StreamServerInterceptor decides each stream when it is opened, as UnaryServerInterceptor does; a permit is held until the stream's
// handler ends. Messages in the stream cost nothing.
func StreamServerInterceptor(limiter *velocity.Limiter, options ...Option) grpc.StreamServerInterceptor {
	i := newInterceptor(limiter, options)
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		permit, err := i.acquire(stream.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		if permit == nil {
			return handle(srv, stream)
		}
		defer permit.Abort() // as above
		err = handle(srv, &streamWith{stream, i.context(stream.Context(), permit)})
		permit.Release()
		return err
	}
}

// streamWith is a stream with another context.
type streamWith struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *streamWith) Context() context.Context { return s.ctx }

// context is the context of the handler of a call that may pass.
func (i *interceptor) context(ctx context.Context, permit *velocity.Permit) context.Context {
	if i.cost == nil {
		return ctx
	}
	return velocity.WithPermit(ctx, permit)
}

// acquire returns what a call that may pass holds, nil if it was not decided, or the error that ends the call.
func (i *interceptor) acquire(ctx context.Context, method string) (*velocity.Permit, error) {
	if i.skip != nil && i.skip(ctx, method) {
		return nil, nil
	}
	permit, err := i.decide(ctx, method)
	switch {
	case err != nil:
		err = i.onError(ctx, method, err)
	case permit.Allowed:
		return permit, nil
	default:
		err = i.onDenied(ctx, method, permit.Result)
	}
	if err == nil {
		err = status.Error(codes.Internal, "the call may not pass, and the handler of that returned no error")
	}
	return nil, err
}

func (i *interceptor) decide(ctx context.Context, method string) (*velocity.Permit, error) {
	limiter, key, cost := i.limiter, "", int64(1)
	if i.key != nil {
		key = i.key(ctx, method)
	}
	if i.cost != nil {
		cost = i.cost(ctx, method)
	}
	name := ""
	if i.policy != nil {
		name = i.policy(ctx, method)
	}
	if name != "" {
		var err error
		if limiter, err = limiter.Policy(name); err != nil {
			return nil, err
		}
	}
	if p, ok := peer.FromContext(ctx); key == "" && ok {
		key = velocity.Address(p.Addr.String())
	}
	permit, err := limiter.Acquire(ctx, key, cost)
	if err == nil && !permit.Detach() { // a handler that goes on after its client has left still holds the permit
		err = ctx.Err()
	}
	return permit, err
}

func denied(_ context.Context, _ string, result velocity.Result) error {
	if result.Unavailable {
		return status.Error(codes.Unavailable, "the rate limit's store does not answer")
	}
	if result.RetryAfter == velocity.Never {
		return status.Error(codes.ResourceExhausted, "the call costs more than the capacity of a rate limit: it can never pass")
	}
	s := status.Newf(codes.ResourceExhausted, "a rate limit is reached: try again in %d s", (result.RetryAfter+time.Second-1)/time.Second)
	if detailed, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(result.RetryAfter)}); err == nil {
		s = detailed
	}
	return s.Err()
}

func undecided(ctx context.Context, method string, err error) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	slog.ErrorContext(ctx, "velocity: a call could not be decided", "method", method, "error", err)
	return status.Error(codes.Internal, "the call could not be decided")
}
