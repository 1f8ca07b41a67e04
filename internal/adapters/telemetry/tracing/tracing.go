// Package tracing records requests and batches as OpenTelemetry spans and sends them by OTLP. OpenTelemetry's standard
// variables configure it; without them nothing is recorded. No span holds a client's key.
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

	"github.com/velocity-limiter/velocity/internal/domain/decision"
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

// methods are the methods that may name a span. All others count as one, so that clients cannot create new names.
var methods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}

// Tracer implements ports.Tracer. Make it with New, and end it with Shutdown.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	w3c      propagation.TraceContext
}

var _ ports.Tracer = (*Tracer)(nil)

// New returns a Tracer, or nil if the environment does not ask for traces. It opens no connection, so the service starts even
// if the collector is down. Later errors go to failed. The error of New reports every wrong variable.
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
		resource.WithFromEnv(), // last, so that it overrides the others
	)
	if err != nil {
		return nil, err
	}
	// The SDK reads the sampler and the limits from the environment.
	p := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(described))
	return &Tracer{provider: p, tracer: p.Tracer("github.com/velocity-limiter/velocity")}, nil
}

// Shutdown sends the recorded spans. If ctx ends first, the rest is lost.
func (t *Tracer) Shutdown(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// Request implements ports.Tracer.
func (t *Tracer) Request(method, path, traceparent, tracestate string) ports.RequestSpan {
	if !slices.Contains(methods, method) {
		method = "_OTHER"
	}
	ctx := t.remote(context.Background(), strings.Clone(traceparent), strings.Clone(tracestate))
	// OTLP accepts only UTF-8. A path with other bytes would lose a whole batch of spans.
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

// remote returns ctx with the caller's span from the headers.
func (t *Tracer) remote(ctx context.Context, traceparent, tracestate string) context.Context {
	return t.w3c.Extract(ctx, propagation.MapCarrier{headerParent: traceparent, headerState: tracestate})
}

// Batch implements ports.Tracer. The span is a child of the first recorded request's span, so it is part of a trace that is
// recorded.
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
			s.SetStatus(codes.Error, "the shard did not decide") // without the error, which may hold a key; the log has it
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
func (s *requestSpan) Decided(d *decision.Decision) {
	if !s.span.IsRecording() {
		return
	}
	s.span.SetAttributes(attrOutcome.String(d.Outcome.String()))
	if d.Policy != "" { // otherwise no policy matched, and no store was asked
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
		code.Code_DATA_LOSS: // errors of the server, by OpenTelemetry's conventions
		s.span.SetStatus(codes.Error, "")
	default:
	}
	s.span.End()
}
