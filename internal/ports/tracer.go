package ports

import (
	"context"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

// Tracer records requests and batches as spans. Where a Tracer is optional, nil records nothing. It must not block, and it
// copies the strings that it keeps. Implementations are safe for concurrent use.
type Tracer interface {
	// Request starts the span of an HTTP request. traceparent and tracestate are the values of its headers of these names; a
	// value that cannot be read counts as absent.
	Request(method, path, traceparent, tracestate string) RequestSpan
	// Call starts the span of a gRPC call of method "package.Service/Method". The context of the span is derived from ctx.
	Call(ctx context.Context, method, traceparent, tracestate string) RequestSpan
	// Batch starts the span of a batch of bucket groups that is sent to a shard. from holds the contexts of the requests in
	// it. The span is linked to those of their spans that are recorded; if none is, there is no span. The caller must call
	// end with the error of the batch, or nil.
	Batch(shard string, groups int, from []context.Context) (end func(error))
}

// RequestSpan is the span of one request or call, for one goroutine.
type RequestSpan interface {
	// Context returns a context with the span, for [Tracer.Batch]. The context of a request is never cancelled.
	Context() context.Context
	// TraceID returns the trace's id in hexadecimal, or "" if the span is not recorded.
	TraceID() string
	// Headers returns the traceparent and tracestate to send on, so that the next service joins the trace. tracestate may be
	// empty.
	Headers() (traceparent, tracestate string)
	// Decided records a decision, without its key.
	Decided(d *decision.Decision)
	// DecidedMany records the number of decisions, how many of them refused, and the policy if all have the same. It records
	// a single decision as Decided does.
	DecidedMany(answers []Answer)
	// End ends the span. status is the answer's: of HTTP for a request, of gRPC for a call.
	End(status int)
}
