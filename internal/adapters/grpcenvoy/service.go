// Package grpcenvoy serves Envoy's Rate Limit Service v3 over gRPC, with health checks and reflection.
//
// The policies that match them, or a configuration of envoyproxy/ratelimit, decide the descriptors of a request. All of them
// pass, or none takes anything. If the store fails, the failure mode of the policy decides and the call does not return an
// error, because Envoy by default lets a request pass whose call ends with an error. So an error means that nothing was taken,
// unless the caller itself has left; a refund that fails after the takes is lost, and the takes are answered.
package grpcenvoy

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// service implements Envoy's Rate Limit Service v3.
type service struct {
	rlsv3.UnimplementedRateLimitServiceServer
	limiter   ports.Limiter
	rules     *envoyconfig.Live // nil if only policies decide
	overrides overrides
	headers   decision.HeaderFamilies
	log       *zap.Logger
	tracer    ports.Tracer // nil if calls are not traced
	calls     sync.Pool    // of *call
}

func newService(limiter ports.Limiter, rules *envoyconfig.Live, options envoyconfig.Options, log *zap.Logger) *service {
	return &service{
		limiter: limiter, rules: rules, log: log,
		overrides: overrides{options: options, rules: map[envoyconfig.Rate]*envoyconfig.Rule{}},
		calls:     sync.Pool{New: func() any { return new(call) }},
	}
}

// ShouldRateLimit decides the descriptors of a request. All of them pass, or none takes anything.
func (s *service) ShouldRateLimit(ctx context.Context, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	if s.tracer != nil {
		return s.traced(ctx, r)
	}
	return s.answer(ctx, r, nil)
}

// answer decides a request, and records the decisions in span if it is not nil.
func (s *service) answer(
	ctx context.Context, r *rlsv3.RateLimitRequest, span ports.RequestSpan,
) (_ *rlsv3.RateLimitResponse, err error) {
	defer s.recovering(&err)
	if err := check(r); err != nil {
		return nil, err
	}
	c := s.calls.Get().(*call)
	defer c.release(&s.calls)
	if span != nil {
		c.traceID = span.TraceID()
	}
	if err := c.resolve(s, r); err != nil {
		return nil, err
	}
	if err := c.decide(ctx, s.limiter); err != nil {
		return nil, refusal(ctx, err)
	}
	if span != nil {
		span.DecidedMany(c.answers)
	}
	return c.response(s.headers), nil
}

// Trace records each call that asks for a decision with t. Call it before Serve. Nil records nothing.
func (s *Server) Trace(t ports.Tracer) { s.service.tracer = t }

// traced is answer with a span, below that of W3C Trace Context. It ignores a traceparent that the call has twice.
func (s *service) traced(ctx context.Context, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	parent := ""
	if values := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(values) == 1 {
		parent = values[0]
	}
	state := strings.Join(metadata.ValueFromIncomingContext(ctx, "tracestate"), ",")
	span := s.tracer.Call(ctx, strings.TrimPrefix(rlsv3.RateLimitService_ShouldRateLimit_FullMethodName, "/"), parent, state)
	response, err := s.answer(span.Context(), r, span)
	span.End(int(status.Code(err)))
	return response, err
}

// recovering turns a panic into an error. The log has the reason, the client does not see it. An interceptor would do the same
// with two more allocations for each call.
func (s *service) recovering(err *error) {
	if reason := recover(); reason != nil {
		s.log.Error("a handler panicked", zap.Any("reason", reason), zap.Stack("stack"))
		*err = status.Error(codes.Internal, "the server failed")
	}
}

// Bounds of a request.
const (
	maxDescriptors = 32
	maxEntries     = policy.MaxDescriptorEntries
)

// check refuses invalid requests. The first two errors are those of envoyproxy/ratelimit.
func check(r *rlsv3.RateLimitRequest) error {
	descriptors := r.GetDescriptors()
	switch {
	case r.GetDomain() == "":
		return status.Error(codes.Unknown, "rate limit domain must not be empty")
	case len(descriptors) == 0:
		return status.Error(codes.Unknown, "rate limit descriptor list must not be empty")
	case len(descriptors) > maxDescriptors:
		return invalid("descriptors: %d: there must be at most %d", len(descriptors), maxDescriptors)
	case domain.Tokens(r.GetHitsAddend()) > domain.MaxCost:
		return invalid("hits_addend: %d: must be at most %d", r.GetHitsAddend(), domain.MaxCost)
	}
	for i, d := range descriptors {
		if n := len(d.GetEntries()); n < 1 || n > maxEntries {
			return invalid("descriptors[%d].entries: %d: there must be from 1 to %d", i, n, maxEntries)
		}
		if hits := d.GetHitsAddend().GetValue(); hits > uint64(domain.MaxCost) {
			return invalid("descriptors[%d].hits_addend: %d: must be at most %d", i, hits, domain.MaxCost)
		}
		for j, e := range d.GetEntries() {
			if e.GetKey() == "" {
				return invalid("descriptors[%d].entries[%d].key: must not be empty", i, j)
			}
		}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// refusal returns the gRPC error for an error of the limiter. The caller's context says whether the caller cancelled or its
// deadline passed, since the store has deadlines of its own. The text of a store's error is not sent: it may have an address.
func refusal(ctx context.Context, err error) error {
	var field *domain.FieldError
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return status.Error(codes.Canceled, "the caller cancelled the call")
	case ctx.Err() != nil:
		return status.Error(codes.DeadlineExceeded, "the caller's deadline has passed")
	case errors.Is(err, domain.ErrInvalidRequest) && errors.As(err, &field):
		return status.Error(codes.InvalidArgument, field.Error())
	case errors.Is(err, ports.ErrCannotHold):
		return status.Error(codes.Unimplemented, "the policy has a concurrency limit, and Envoy's rate limit service does not learn when a request ends")
	case errors.Is(err, ports.ErrUnavailable), errors.Is(err, ports.ErrOverloaded), errors.Is(err, ports.ErrCorrupt):
		return status.Error(codes.Unavailable, "the store does not answer; the request may or may not have been carried out")
	default:
		return status.Error(codes.Internal, "the request cannot be decided")
	}
}

// clamped converts a number of tokens to the protocol's type.
func clamped(n domain.Tokens) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }
