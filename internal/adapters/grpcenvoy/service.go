package grpcenvoy

import (
	"context"
	"errors"
	"math"
	"sync"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// service implements Envoy's Rate Limit Service v3.
type service struct {
	rlsv3.UnimplementedRateLimitServiceServer
	limiter   ports.Limiter
	rules     *envoyconfig.Rules // nil: the policies alone
	overrides *overrides
	log       *zap.Logger
	tracer    ports.Tracer // nil: calls are not recorded
	calls     sync.Pool    // of *call
}

func newService(limiter ports.Limiter, rules *envoyconfig.Rules, failure domain.FailureMode, log *zap.Logger) *service {
	return &service{
		limiter: limiter, rules: rules, overrides: newOverrides(failure), log: log,
		calls: sync.Pool{New: func() any { return new(call) }},
	}
}

// ShouldRateLimit decides the descriptors of a request, all of them or none.
func (s *service) ShouldRateLimit(ctx context.Context, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	if s.tracer != nil {
		return s.traced(ctx, r)
	}
	return s.answer(ctx, r, nil)
}

// answer decides a request, and notes the decisions in its span if it has one.
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
	if err := c.plan(s, r); err != nil {
		return nil, err
	}
	if err := c.decide(ctx, s.limiter); err != nil {
		return nil, refusal(ctx, err)
	}
	if span != nil {
		span.DecidedMany(c.answers)
	}
	return c.response(), nil
}

// recovering turns a panic into an error: the reason goes to the log, never to the client. It is no interceptor, which
// would cost each call two allocations.
func (s *service) recovering(err *error) {
	if reason := recover(); reason != nil {
		s.log.Error("a handler panicked", zap.Any("reason", reason), zap.Stack("stack"))
		*err = status.Error(codes.Internal, "the server failed")
	}
}

// Bounds of a request.
const (
	maxDescriptors = 32
	maxEntries     = domain.MaxDescriptorEntries
)

// check refuses what cannot be decided. The first two texts and their code are what envoyproxy/ratelimit answers.
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

// refusal maps what the limiter returns to gRPC. The text of an error of the store may hold an address, and its cause may
// be a time that was the store's: whether the caller's is over, its own context says.
func refusal(ctx context.Context, err error) error {
	var field *domain.FieldError
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return status.Error(codes.Canceled, "the caller has gone")
	case ctx.Err() != nil:
		return status.Error(codes.DeadlineExceeded, "the caller's time is over")
	case errors.Is(err, domain.ErrInvalidRequest) && errors.As(err, &field):
		return status.Error(codes.InvalidArgument, field.Error())
	case errors.Is(err, ports.ErrUnavailable), errors.Is(err, ports.ErrOverloaded), errors.Is(err, ports.ErrCorrupt):
		return status.Error(codes.Unavailable, "the store does not answer; what was asked may or may not have been carried out")
	default:
		return status.Error(codes.Internal, "the request cannot be decided")
	}
}

// clamped is a number of tokens as the protocol tells it.
func clamped(n domain.Tokens) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }
