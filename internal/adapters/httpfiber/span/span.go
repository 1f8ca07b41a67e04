// Package span carries the span of a request, of distributed tracing, from the server to the handlers.
package span

import (
	"bytes"
	"context"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The headers of W3C Trace Context.
const (
	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"
)

// spanKey is the key of the request's user value that holds its span.
type spanKey struct{}

// Begin begins the span of a request. A traceparent that was sent twice is ignored.
func Begin(tracer ports.Tracer, ctx *fasthttp.RequestCtx) {
	h := &ctx.Request.Header
	parent := ""
	if values := h.PeekAll(HeaderTraceParent); len(values) == 1 {
		parent = utils.UnsafeString(values[0])
	}
	state := bytes.Join(h.PeekAll(HeaderTraceState), []byte(","))
	ctx.SetUserValue(spanKey{}, tracer.Request(
		utils.UnsafeString(ctx.Method()), utils.UnsafeString(ctx.URI().PathOriginal()), parent, utils.UnsafeString(state)))
}

// Of returns the span of a request. It reports false, and returns a span that records nothing, if the request has none.
func Of(ctx *fasthttp.RequestCtx) (ports.RequestSpan, bool) {
	if active, ok := ctx.UserValue(spanKey{}).(ports.RequestSpan); ok {
		return active, true
	}
	return none{}, false
}

// none records nothing. Its context never ends.
type none struct{}

func (none) Context() context.Context                  { return context.Background() }
func (none) TraceID() string                           { return "" }
func (none) Headers() (traceparent, tracestate string) { return "", "" }
func (none) Decided(*decision.Decision)                {}
func (none) DecidedMany([]ports.Answer)                {}
func (none) End(int)                                   {}
