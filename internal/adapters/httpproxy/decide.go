package httpproxy

import (
	"context"
	"net/textproto"
	"strings"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// trace begins the span of the request. A traceparent that was sent twice is ignored.
func (x *exchange) trace() {
	parent := only(x.in.Header["Traceparent"], "")
	x.span = x.proxy.tracer.Request(x.in.Method, x.path, parent, strings.Join(x.in.Header["Tracestate"], ","))
}

// background is the context of refunds, which are made even if the client has left.
func (x *exchange) background() context.Context {
	if x.span != nil {
		return x.span.Context()
	}
	return context.Background()
}

// waiting is the context of a decision: a request may have to wait, for as long as its client stays.
func (x *exchange) waiting() context.Context {
	if x.span != nil {
		return spanContext{x.in.Context(), x.span.Context()}
	}
	return x.in.Context()
}

// spanContext is the context of a request, with the values of its span's.
type spanContext struct {
	context.Context
	span context.Context
}

// Value implements context.Context.
func (c spanContext) Value(key any) any { return c.span.Value(key) }

// decide has the limiter decide the request. It returns when the request's turn has come.
func (x *exchange) decide() error {
	x.values.Tokens = x.proxy.claims
	x.values.Reset(x, x.query)
	req := &x.req[0]
	req.Hold, req.MaxWait = true, policy.MaxMaxWait // the policy says how long
	req.Cost, req.PolicyCost, req.Trusted, req.ID = 1, true, x.trusted, x.id
	req.Method, req.Host, req.Path = x.in.Method, x.in.Host, x.path
	req.Client = x.client()
	req.Lookup, req.Elements = x.values.Lookup, x.values.Elements
	if x.body != nil {
		req.Body, req.BeforeWait = x.ahead, x.before
	}
	if x.span != nil {
		req.TraceID = x.span.TraceID()
	}
	x.proxy.limiter.DecideMany(x.waiting(), x.req[:], x.answer[:])
	if err := x.answer[0].Err; err != nil {
		return err
	}
	x.decided = true
	x.actual.begin(x.decision())
	if ignored := x.decision().IgnoredHeader; ignored != "" {
		x.proxy.clients.HeaderIgnored(ignored, x.peer)
	}
	if x.span != nil {
		x.span.Decided(x.decision())
	}
	return nil
}

// bodyAhead is the body of the policy.Request.
func (x *exchange) bodyAhead() ([]byte, error) { return x.body.readAhead(), x.body.failure() }

// beforeWait reads a body whose length is known and at most policy.MaxCostBody. Over HTTP/1, net/http notices a client that leaves only
// once it has read the body. Half of the memory is left for bodies that say what their requests cost.
func (x *exchange) beforeWait() error {
	if x.in.ProtoMajor == 1 && x.in.ContentLength > 0 && x.proxy.aheadMemory.Load() < x.proxy.mostAhead/2 {
		x.body.readAhead()
	}
	return x.body.failure()
}

// refund gives the tokens back. It does so once: a refund whose outcome is unknown is not sent again, because then both might
// be carried out.
func (x *exchange) refund() {
	d := x.decision()
	_, err := x.proxy.limiter.Decide(x.background(), d.Refund(x.req[0]))
	d.RefundOn = policy.StatusSet{}
	if err != nil {
		x.proxy.failures.Warn("A refund may be lost", zap.String("requestID", x.id), zap.Error(err))
	}
}

// Values implements keyvalue.Header.
func (x *exchange) Values(name string) (first string, lines int) {
	name = textproto.CanonicalMIMEHeaderKey(name)
	if name == "Host" { // which net/http keeps elsewhere
		return x.in.Host, 1
	}
	values := x.in.Header[name]
	if len(values) == 0 {
		return "", 0
	}
	return values[0], len(values)
}

// Cookies implements keyvalue.Header.
func (x *exchange) Cookies(name string) (first string, cookies int) {
	for _, line := range x.in.Header["Cookie"] {
		for cookie := range strings.SplitSeq(line, ";") {
			key, value, _ := strings.Cut(cookie, "=")
			if strings.Trim(key, " ") != name {
				continue
			}
			if cookies++; cookies == 1 {
				first = unquoted(strings.Trim(value, " "))
			}
		}
	}
	return first, cookies
}

func unquoted(s string) string {
	if len(s) > 1 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}
