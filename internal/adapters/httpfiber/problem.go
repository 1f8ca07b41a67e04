package httpfiber

import (
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain"
)

const (
	contentTypeProblem = "application/problem+json"
	contentTypeJSON    = "application/json"

	// The problem types of draft-ietf-httpapi-ratelimit-headers-10, section 6.
	typeQuotaExceeded   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	typeReducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// problem is an answer of RFC 9457.
type problem struct {
	status int
	typ    string // empty: about:blank, and then the title is the status's own phrase
	title  string
	detail string
	// known stands for the general members, where it is set.
	known []byte
	// retrySeconds is the Retry-After; 0: none.
	retrySeconds int64
	// denial adds the members of a 429.
	denial *domain.Decision
	// extra is appended to the object as it is: members, each after a comma.
	extra []byte
}

// denied is the problem of a decision that did not allow.
func denied(d *domain.Decision) problem {
	switch d.Outcome {
	case domain.OutcomeBlocked:
		return problem{status: fasthttp.StatusForbidden, detail: "the policy lets this client not pass"}
	case domain.OutcomeUnavailable:
		return problem{
			status: fasthttp.StatusServiceUnavailable, typ: typeReducedCapacity,
			title:        "Temporarily reduced capacity",
			detail:       "the store does not answer, and the policy then refuses",
			retrySeconds: storeRetrySeconds,
		}
	default:
		return problem{status: fasthttp.StatusTooManyRequests, known: quotaExceeded, denial: d}
	}
}

// writeDenial answers a request that a decision did not allow.
func writeDenial(ctx *fasthttp.RequestCtx, d *domain.Decision) { writeDenialAs(ctx, d, 0) }

// writeDenialAs does, with another status than the usual; 0: the usual one.
func writeDenialAs(ctx *fasthttp.RequestCtx, d *domain.Decision, status int) {
	p := denied(d)
	p.as(status)
	writeProblem(ctx, &p)
	setRateLimitHeaders(&ctx.Response.Header, d)
}

// writeErrorAs is writeError with another status than the table's; 0: the table's.
func writeErrorAs(ctx *fasthttp.RequestCtx, err error, status int) {
	p := problemOf(err)
	p.as(status)
	writeProblem(ctx, &p)
}

// as changes the status and keeps what the problem says; 0 changes nothing.
func (p *problem) as(status int) {
	if status == 0 || status == p.status {
		return
	}
	if p.known != nil {
		p.typ, p.title, p.detail, p.known = quota.typ, quota.title, quota.detail, nil
	}
	p.status = status
}

// quota is what every denial says.
var quota = problem{
	status: fasthttp.StatusTooManyRequests, typ: typeQuotaExceeded,
	title:  "Quota exceeded",
	detail: "a limit is reached; violated-policies names it",
}

// quotaExceeded is what every 429 begins with: an attacker may ask for many.
var quotaExceeded = quota.appendGeneral(nil)

// writeError answers with the problem that the table has for err.
func writeError(ctx *fasthttp.RequestCtx, err error) {
	p := problemOf(err)
	if p.status == fasthttp.StatusUnauthorized {
		ctx.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, "Bearer")
	}
	writeProblem(ctx, &p)
}

// writeProblem keeps the headers that are on the answer already.
func writeProblem(ctx *fasthttp.RequestCtx, p *problem) {
	ctx.SetStatusCode(p.status)
	ctx.SetContentType(contentTypeProblem)
	if p.retrySeconds > 0 {
		var digits [20]byte
		ctx.Response.Header.SetCanonical(headerRetryAfter, strconv.AppendInt(digits[:0], p.retrySeconds, 10))
	}
	body := ctx.Response.SwapBody(nil) // its memory, without a copy of ours
	ctx.Response.SwapBody(p.appendJSON(body[:0], requestID(ctx), instance(ctx), -1))
}

// appendJSON writes the object. at is the problem's place in a list of checks; -1: it is the whole answer.
func (p *problem) appendJSON(dst []byte, id, instance string, at int) []byte {
	if p.known != nil {
		dst = append(dst, p.known...)
	} else {
		dst = p.appendGeneral(dst)
	}
	dst = append(dst, `,"instance":"`...)
	dst = appendURIPath(dst, instance)
	if at >= 0 {
		dst = append(dst, "#/checks/"...)
		dst = strconv.AppendInt(dst, int64(at), 10)
	}
	dst = append(dst, `","request_id":`...)
	dst = appendName(dst, id)
	if p.denial != nil {
		dst = appendDenial(dst, p.denial)
	}
	dst = append(dst, p.extra...)
	return append(dst, '}')
}

// appendGeneral writes what is the same for each occurrence of a problem.
func (p *problem) appendGeneral(dst []byte) []byte {
	typ, title := p.typ, p.title
	if typ == "" {
		typ, title = "about:blank", http.StatusText(p.status)
	}
	dst = append(dst, `{"type":`...)
	dst = appendString(dst, typ)
	dst = append(dst, `,"title":`...)
	dst = appendString(dst, title)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(p.status), 10)
	dst = append(dst, `,"detail":`...)
	return appendString(dst, p.detail)
}

func appendDenial(dst []byte, d *domain.Decision) []byte {
	if c := d.Constraining(); c != nil {
		dst = append(dst, `,"limit":`...)
		dst = strconv.AppendInt(dst, int64(c.Capacity), 10)
		dst = append(dst, `,"remaining":`...)
		dst = strconv.AppendInt(dst, int64(max(c.Remaining, 0)), 10)
		dst = append(dst, `,"retry_after_ms":`...)
		dst = strconv.AppendInt(dst, ceilMillis(c.RetryAfter), 10)
	}
	dst = append(dst, `,"policy":`...)
	dst = appendName(dst, d.Policy)
	dst = append(dst, `,"violated-policies":[`...)
	for i, first := 0, true; i < len(d.Limits); i++ {
		if d.Limits[i].Allowed {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		dst = appendName(dst, d.Limits[i].Name)
		first = false
	}
	return append(dst, ']')
}

// instance is the request's path, which names the occurrence together with the request id.
func instance(ctx *fasthttp.RequestCtx) string {
	return utils.UnsafeString(ctx.URI().PathOriginal())
}

// appendURIPath writes a path so that neither JSON nor a URI can misread it: in its normal form or, where it has
// none, with every byte encoded that is not a path's own, the percent sign too.
func appendURIPath(dst []byte, path string) []byte {
	const longest = 256
	if normal, err := NormalizePath(path); err == nil && len(normal) <= longest {
		return append(dst, normal...)
	}
	for i := range min(len(path), longest) {
		if c := path[i]; pathByte[c] {
			dst = append(dst, c)
		} else {
			dst = appendEncoded(dst, c)
		}
	}
	return dst
}

// appendName quotes what needs no escaping, in JSON or in a structured field: the names of policies, limits and stores,
// and a request's id.
func appendName(dst []byte, name string) []byte {
	dst = append(dst, '"')
	dst = append(dst, name...)
	return append(dst, '"')
}

// appendString writes a JSON string; bytes that are no UTF-8 become U+FFFD.
func appendString(dst []byte, s string) []byte {
	if plainText(s) {
		dst = append(dst, '"')
		dst = append(dst, s...)
		return append(dst, '"')
	}
	dst, _ = jsontext.AppendQuote(dst, s) // the error says that there was such a byte
	return dst
}

// plainText reports whether s stands in JSON as it is, as nearly every string here does.
func plainText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
