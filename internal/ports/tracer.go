package ports

import (
	"context"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Tracer records what requests go through, as spans. Where nothing is recorded there is no Tracer: whoever may have one
// takes nil. Safe for concurrent use; it must not block, and copies the strings that it keeps.
type Tracer interface {
	// Request begins the span of a request that came in over HTTP. traceparent and tracestate are what its headers of
	// these names say; what cannot be read counts as absent.
	Request(method, path, traceparent, tracestate string) RequestSpan
	// Call begins the span of a call that came in over gRPC, of "package.Service/Method", with such headers. Its context
	// is ctx with the span.
	Call(ctx context.Context, method, traceparent, tracestate string) RequestSpan
	// Batch begins the span of what is sent to a shard for so many bucket groups at once. from are contexts of requests;
	// the span is linked to those of their spans that are recorded, and there is none if none is. end ends it, with why
	// the batch failed, or nil.
	Batch(shard string, groups int, from []context.Context) (end func(error))
}

// RequestSpan is the span of one request or call, for one goroutine.
type RequestSpan interface {
	// Context carries the span to [Tracer.Batch]. That of a request never ends.
	Context() context.Context
	// TraceID is in hexadecimal; empty if the span is not recorded.
	TraceID() string
	// Headers are traceparent and tracestate for whoever is asked next, for the same trace. tracestate may be empty.
	Headers() (traceparent, tracestate string)
	// Decided notes a decision, of which no key is kept.
	Decided(d *domain.Decision)
	// DecidedMany notes how many decisions were made and how many of them refused, and the policy if it was one and the
	// same. A single decision is noted as by Decided.
	DecidedMany(answers []Answer)
	// End ends the span with the status of the answer, which is gRPC's for a call.
	End(status int)
}
