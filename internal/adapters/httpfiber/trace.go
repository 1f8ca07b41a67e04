package httpfiber

import (
	"bytes"
	"context"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The headers of W3C Trace Context.
const (
	headerTraceParent = "traceparent"
	headerTraceState  = "tracestate"
)

// spanKey is under what a request's span is kept.
type spanKey struct{}

// Trace has the tracer record each request. It is for the time before Serve; nil records nothing.
func (s *Server) Trace(t ports.Tracer) { s.http.tracer = t }

// beginSpan begins the span of a request. A traceparent that is there twice says nothing.
func (s *httpServer) beginSpan(ctx *fasthttp.RequestCtx) {
	h := &ctx.Request.Header
	parent := ""
	if values := h.PeekAll(headerTraceParent); len(values) == 1 {
		parent = utils.UnsafeString(values[0])
	}
	state := bytes.Join(h.PeekAll(headerTraceState), []byte(","))
	ctx.SetUserValue(spanKey{}, s.tracer.Request(
		utils.UnsafeString(ctx.Method()), utils.UnsafeString(ctx.URI().PathOriginal()), parent, utils.UnsafeString(state)))
}

// spanOf returns nil where nothing is recorded.
func spanOf(ctx *fasthttp.RequestCtx) ports.RequestSpan {
	span, _ := ctx.UserValue(spanKey{}).(ports.RequestSpan)
	return span
}

// contextOf is the context in which a request is decided. It never ends, and carries the span if there is one.
func contextOf(ctx *fasthttp.RequestCtx) context.Context {
	if span := spanOf(ctx); span != nil {
		return span.Context()
	}
	return context.Background()
}

func traceIDOf(ctx *fasthttp.RequestCtx) string {
	if span := spanOf(ctx); span != nil {
		return span.TraceID()
	}
	return ""
}

func noteDecision(ctx *fasthttp.RequestCtx, d *domain.Decision) {
	if span := spanOf(ctx); span != nil {
		span.Decided(d)
	}
}

func noteDecisions(ctx *fasthttp.RequestCtx, answers []ports.Answer) {
	if span := spanOf(ctx); span != nil {
		span.DecidedMany(answers)
	}
}

// appendTrace writes the trace context for the upstream: the client's own as it came or, where the request has a span,
// that span's.
func (h *header) appendTrace(dst []byte, ctx *fasthttp.RequestCtx) []byte {
	span := spanOf(ctx)
	if span == nil {
		for i := range h.lines {
			if name := utils.UnsafeString(h.lines[i].name); h.fates[i] == fateTrace && !h.isHop(name) {
				dst = appendLine(dst, name, h.lines[i].value)
			}
		}
		return dst
	}
	parent, state := span.Headers()
	dst = appendLine(dst, headerTraceParent, utils.UnsafeBytes(parent))
	if state != "" {
		dst = appendLine(dst, headerTraceState, utils.UnsafeBytes(state))
	}
	return dst
}
