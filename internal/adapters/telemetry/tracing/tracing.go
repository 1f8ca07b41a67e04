// Package tracing records requests and batches as OpenTelemetry spans and sends them by OTLP. Settings are the standard
// variables of OpenTelemetry; without them nothing is recorded. No span holds a client's key.
package tracing

import (
	"context"
	"slices"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/genproto/googleapis/rpc/code"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

const (
	attrPolicy  = attribute.Key("velocity.policy")
	attrOutcome = attribute.Key("velocity.outcome")
	attrStore   = attribute.Key("velocity.store")
	attrShard   = attribute.Key("velocity.shard")
	attrGroups  = attribute.Key("velocity.groups")
	// Of a request with several decisions.
	attrDecisions = attribute.Key("velocity.decisions")
	attrRefused   = attribute.Key("velocity.refused")
)

const (
	headerParent = "traceparent"
	headerState  = "tracestate"
)

// methods are those that may name a span. What else a client sends is one method, or there would be no end of names.
var methods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}

// Tracer implements ports.Tracer. Make it with New, and end it with Shutdown.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	w3c      propagation.TraceContext
}

var _ ports.Tracer = (*Tracer)(nil)

// New makes what the environment asks for: nil where it asks for no traces. It connects to nothing, so that a collector
// that is down keeps nobody from starting; what fails later is told to failed. The error reports every variable that is
// wrong.
func New(ctx context.Context, version string, failed func(error)) (*Tracer, error) {
	on, err := wanted()
	if err != nil || !on {
		return nil, err
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(failed))
	exporter, err := newExporter(ctx)
	if err != nil {
		return nil, err
	}
	described, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName("velocity"), semconv.ServiceVersion(version)),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv(), // last, so that it has the last word
	)
	if err != nil {
		return nil, err
	}
	// The sampler and the limits are the SDK's, by the environment.
	p := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(described))
	return &Tracer{provider: p, tracer: p.Tracer("github.com/velocity-limiter/velocity")}, nil
}

// Shutdown sends what is recorded. When ctx ends first, the rest is lost.
func (t *Tracer) Shutdown(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// Request implements ports.Tracer.
func (t *Tracer) Request(method, path, traceparent, tracestate string) ports.RequestSpan {
	if !slices.Contains(methods, method) {
		method = "_OTHER"
	}
	ctx := t.remote(context.Background(), strings.Clone(traceparent), strings.Clone(tracestate))
	// OTLP holds UTF-8 alone, and a path may be of any bytes: one of them would lose a whole batch of spans.
	path = strings.ToValidUTF8(strings.Clone(path), "\ufffd")
	name := strings.Clone(method)
	ctx, s := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		semconv.HTTPRequestMethodKey.String(name), semconv.URLPath(path)))
	return &requestSpan{ctx: ctx, span: s, w3c: t.w3c}
}

// Call implements ports.Tracer.
func (t *Tracer) Call(ctx context.Context, method, traceparent, tracestate string) ports.RequestSpan {
	ctx, s := t.tracer.Start(t.remote(ctx, traceparent, tracestate), method, trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(semconv.RPCSystemNameGRPC, semconv.RPCMethod(method)))
	return &callSpan{requestSpan{ctx: ctx, span: s, w3c: t.w3c}}
}

// remote is ctx with what the headers say of the caller's span.
func (t *Tracer) remote(ctx context.Context, traceparent, tracestate string) context.Context {
	return t.w3c.Extract(ctx, propagation.MapCarrier{headerParent: traceparent, headerState: tracestate})
}

// Batch implements ports.Tracer. The span is the child of the first request's that is recorded, so that it is recorded
// exactly if one of them is, and stands in a trace that somebody looks at.
func (t *Tracer) Batch(shard string, groups int, from []context.Context) (end func(error)) {
	var first context.Context
	links := make([]trace.Link, 0, len(from))
	for _, ctx := range from {
		of := trace.SpanContextFromContext(ctx)
		if !of.IsSampled() {
			continue
		}
		if first == nil {
			first = ctx
		}
		links = append(links, trace.Link{SpanContext: of})
	}
	if first == nil {
		return func(error) {}
	}
	_, s := t.tracer.Start(first, "batch", trace.WithSpanKind(trace.SpanKindClient), trace.WithLinks(links...),
		trace.WithAttributes(semconv.DBSystemNameRedis, attrShard.String(shard), attrGroups.Int(groups)))
	return func(err error) {
		if err != nil {
			s.SetStatus(codes.Error, "the shard did not decide") // the error may hold a key, the log has it
		}
		s.End()
	}
}

type requestSpan struct {
	ctx  context.Context
	span trace.Span
	w3c  propagation.TraceContext
}

// Context implements ports.RequestSpan.
func (s *requestSpan) Context() context.Context { return s.ctx }

// TraceID implements ports.RequestSpan.
func (s *requestSpan) TraceID() string {
	if of := s.span.SpanContext(); of.IsSampled() {
		return of.TraceID().String()
	}
	return ""
}

// Headers implements ports.RequestSpan.
func (s *requestSpan) Headers() (traceparent, tracestate string) {
	carrier := propagation.MapCarrier{}
	s.w3c.Inject(s.ctx, carrier)
	return carrier[headerParent], carrier[headerState]
}

// Decided implements ports.RequestSpan.
func (s *requestSpan) Decided(d *domain.Decision) {
	if !s.span.IsRecording() {
		return
	}
	s.span.SetAttributes(attrOutcome.String(d.Outcome.String()))
	if d.Policy != "" { // else none matched, and no store was asked
		s.span.SetAttributes(attrPolicy.String(d.Policy), attrStore.String(string(d.Store)))
	}
}

// DecidedMany implements ports.RequestSpan.
func (s *requestSpan) DecidedMany(answers []ports.Answer) {
	if !s.span.IsRecording() || len(answers) == 0 {
		return
	}
	if len(answers) == 1 && answers[0].Err == nil {
		s.Decided(&answers[0].Decision)
		return
	}
	policies, decided, refused := make(map[string]bool), 0, 0
	for i := range answers {
		if answers[i].Err != nil {
			continue
		}
		decided++
		policies[answers[i].Decision.Policy] = true
		if !answers[i].Decision.Allowed() {
			refused++
		}
	}
	s.span.SetAttributes(attrDecisions.Int(decided), attrRefused.Int(refused))
	for policy := range policies {
		if len(policies) == 1 && policy != "" {
			s.span.SetAttributes(attrPolicy.String(policy))
		}
	}
}

// End implements ports.RequestSpan.
func (s *requestSpan) End(status int) {
	s.span.SetAttributes(semconv.HTTPResponseStatusCode(status))
	if status >= 500 {
		s.span.SetStatus(codes.Error, "")
	}
	s.span.End()
}

// callSpan is the span of a call over gRPC.
type callSpan struct{ requestSpan }

// End implements ports.RequestSpan.
func (s *callSpan) End(status int) {
	c := code.Code(status) //nolint:gosec // gRPC's codes are few
	s.span.SetAttributes(semconv.RPCResponseStatusCode(c.String()))
	switch c {
	case code.Code_UNKNOWN, code.Code_DEADLINE_EXCEEDED, code.Code_UNIMPLEMENTED, code.Code_INTERNAL, code.Code_UNAVAILABLE,
		code.Code_DATA_LOSS: // what a server is to blame for, by OpenTelemetry's conventions
		s.span.SetStatus(codes.Error, "")
	default:
	}
	s.span.End()
}
