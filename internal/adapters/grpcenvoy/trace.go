package grpcenvoy

import (
	"context"
	"strings"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// The metadata of W3C Trace Context.
const (
	metaTraceParent = "traceparent"
	metaTraceState  = "tracestate"
)

// Trace has the tracer record each call that asks for a decision. It is for the time before Serve; nil records nothing.
func (s *Server) Trace(t ports.Tracer) { s.service.tracer = t }

// traced is answer, recorded. A traceparent that is there twice says nothing.
func (s *service) traced(ctx context.Context, r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	parent := ""
	if values := metadata.ValueFromIncomingContext(ctx, metaTraceParent); len(values) == 1 {
		parent = values[0]
	}
	state := strings.Join(metadata.ValueFromIncomingContext(ctx, metaTraceState), ",")
	span := s.tracer.Call(ctx, strings.TrimPrefix(rlsv3.RateLimitService_ShouldRateLimit_FullMethodName, "/"), parent, state)
	response, err := s.answer(span.Context(), r, span)
	span.End(int(status.Code(err)))
	return response, err
}
