// Package reply writes answers to fasthttp's requests: JSON, problems, the headers of limits, and the request's id.
package reply

import (
	"strconv"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/web/cors"
	"github.com/velocity-limiter/velocity/internal/web/problem"
	"github.com/velocity-limiter/velocity/internal/web/requestid"
)

var headerRetryAfter = []byte("Retry-After")

// JSON answers 200 with a JSON value.
func JSON(ctx *fasthttp.RequestCtx, value []byte) {
	AppendJSON(ctx, func(dst []byte) []byte { return append(dst, value...) })
}

// AppendJSON answers 200 with the JSON value that write appends to the body's own memory.
func AppendJSON(ctx *fasthttp.RequestCtx, write func(dst []byte) []byte) {
	ctx.SetContentType("application/json")
	body := ctx.Response.SwapBody(nil)
	ctx.Response.SwapBody(write(body[:0]))
}

// Error answers with the problem for err.
func Error(ctx *fasthttp.RequestCtx, err error) { ErrorAs(ctx, err, 0) }

// ErrorAs is Error with another status than the usual one; 0 is the usual one.
func ErrorAs(ctx *fasthttp.RequestCtx, err error, status int) {
	p := problem.Of(err)
	if status != 0 {
		p.Status = status
	} else if p.Challenge != "" {
		ctx.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, p.Challenge)
	}
	Problem(ctx, &p)
}

// Denial answers a request that a decision did not allow, with status or, if that is 0, with the usual one. buf is memory for
// RateLimitHeaders.
func Denial(ctx *fasthttp.RequestCtx, families decision.HeaderFamilies, d *decision.Decision, status int, buf *[]byte) {
	p := problem.Denied(d)
	if status != 0 {
		p.Status = status
	}
	Problem(ctx, &p)
	RateLimitHeaders(&ctx.Response.Header, families, d, buf)
}

// Problem answers with a problem. It keeps the headers that are on the answer already.
func Problem(ctx *fasthttp.RequestCtx, p *problem.Problem) {
	ctx.SetStatusCode(p.Status)
	if p.RetrySeconds > 0 {
		var digits [20]byte
		ctx.Response.Header.SetCanonical(headerRetryAfter, strconv.AppendInt(digits[:0], p.RetrySeconds, 10))
	}
	body := ctx.Response.SwapBody(nil) // appended to in place, which saves a copy
	body, contentType := p.AppendBody(body[:0], RequestID(ctx), Instance(ctx))
	ctx.SetContentType(contentType)
	ctx.Response.SwapBody(body)
}

type instanceKey struct{}

// SetInstance sets the path that problems show, in place of the request's.
func SetInstance(ctx *fasthttp.RequestCtx, path string) { ctx.SetUserValue(instanceKey{}, path) }

// Instance is the request's path, or that of SetInstance. It names a problem's occurrence together with the request id.
func Instance(ctx *fasthttp.RequestCtx) string {
	if path, ok := ctx.UserValue(instanceKey{}).(string); ok {
		return path
	}
	return utils.UnsafeString(ctx.URI().PathOriginal())
}

// RateLimitHeaders sets the headers of a decision. buf is memory for their values, which it overwrites. Names are set as
// domain spells them: fasthttp would write X-Ratelimit-Limit.
func RateLimitHeaders(h *fasthttp.ResponseHeader, families decision.HeaderFamilies, d *decision.Decision, buf *[]byte) {
	*buf = families.Fields(d, (*buf)[:0], func(name string, value []byte) { h.SetCanonical(utils.UnsafeBytes(name), value) })
}

// CORS adds the headers by which a page of another origin reads an answer of our own.
func CORS(ctx *fasthttp.RequestCtx, rules *cors.Rules) {
	rules.Fields(utils.UnsafeString(ctx.Request.Header.Peek(fasthttp.HeaderOrigin)), true, ctx.Response.Header.Add)
}

var headerRequestID = []byte(requestid.Header)

// RequestID returns the id with which a request is logged and answered: the client's own if it is valid, else a new one.
// The first call sets it on the answer. The string is valid as long as the request.
func RequestID(ctx *fasthttp.RequestCtx) string {
	if id := ctx.Response.Header.PeekCanonical(headerRequestID); len(id) > 0 {
		return utils.UnsafeString(id)
	}
	id := ctx.Request.Header.PeekCanonical(headerRequestID)
	if !requestid.Valid(id) {
		var text [32]byte
		id = requestid.Append(text[:0])
	}
	ctx.Response.Header.SetCanonical(headerRequestID, id)
	return utils.UnsafeString(ctx.Response.Header.PeekCanonical(headerRequestID))
}
