package httpproxy

import (
	"net/http"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/usage"
)

// actualCost finds out what a request has cost, from its answer. In the zero value, the cost is what was taken.
type actualCost struct {
	cost   *policy.Cost // nil: what was taken
	header policy.Ending
	reader *usage.Reader // of the answer's body; nil: it is not read
}

// begin is called with the decision.
func (c *actualCost) begin(d *decision.Decision) {
	if d.Taken && !d.AppliedPolicy.Cost.Actual.IsZero() {
		c.cost = &d.AppliedPolicy.Cost
	}
}

// readsBody reports whether the answer's body reports the cost, so that it must not be compressed.
func (c *actualCost) readsBody() bool { return c.cost != nil && c.cost.Actual.Header == "" }

// answer is called with the header of the upstream's answer.
func (c *actualCost) answer(h http.Header) {
	switch {
	case c.cost == nil:
	case !c.readsBody():
		c.header.Tokens, c.header.Usage = headerUsage(h.Values(c.cost.Actual.Header))
	case only(h["Content-Encoding"], "identity") == "identity":
		c.reader = usage.NewReader(c.cost.Actual, h.Get("Content-Type"))
	}
}

// trailer is called with the trailer of the upstream's answer, which counts where the header does not say the cost: that of a stream, or
// of a gRPC call, is known at its end.
func (c *actualCost) trailer(h http.Header) {
	if c.cost != nil && !c.readsBody() && c.header.Usage == policy.UsageNone {
		c.header.Tokens, c.header.Usage = headerUsage(h.Values(c.cost.Actual.Header))
	}
}

// headerUsage reads the number of tokens in the lines of a header or a trailer.
func headerUsage(lines []string) (domain.Tokens, policy.Usage) {
	if len(lines) == 0 {
		return 0, policy.UsageNone
	}
	n, err := strconv.ParseUint(strings.Trim(only(lines, ""), " \t"), 10, 63)
	if err != nil || n > uint64(domain.MaxCost) {
		return 0, policy.UsageInvalid
	}
	return domain.Tokens(n), policy.UsageFound
}

// body is called with each piece of the answer's body.
func (c *actualCost) body(p []byte) {
	if c.reader != nil {
		_, _ = c.reader.Write(p) // it does not fail
	}
}

// ending is what is known when the answer has ended.
func (c *actualCost) ending(status int, whole bool) policy.Ending {
	e := c.header
	if c.reader != nil {
		e.Tokens, e.Usage = c.reader.Result()
	}
	e.Status, e.Whole = status, whole
	return e
}

// settle ends the permit that the request holds, and settles its cost; when it is called again, it does nothing. whole says that
// the answer does not break off. It is called before the last piece of an answer is sent, since the client may then send its next
// request, which must find the permit free and the tokens returned. After it, a refund of the tokens ends nothing.
//
// A whole answer after which the tokens come back settles nothing yet: see answered.
func (x *exchange) settle(whole bool) {
	d, actual := x.decision(), ports.Unsettled
	whole = whole && !x.clientFailed
	var settling policy.Request
	needed := false
	if x.actual.cost != nil && (!whole || !d.RefundOn.Has(x.status)) {
		var missing bool
		if x.res != nil {
			x.actual.trailer(x.res.Trailer)
		}
		// What a WebSocket carries is not read, so it costs what one does that breaks off.
		actual, missing = x.actual.cost.Settled(d.Cost, x.actual.ending(x.status, whole && !x.hijacked))
		x.settled(actual, missing)
		settling, needed = d.Settle(x.req[0], actual)
	}
	x.proxy.permits.End(d.Permit, actual)
	d.Permit = ""
	if !needed {
		return
	}
	if _, err := x.proxy.limiter.Decide(x.background(), settling); err != nil {
		x.proxy.failures.Warn("A settlement of a cost may be lost", zap.String("requestID", x.id), zap.Error(err))
	}
}

// settled is called when the request's cost is known; the rest of the answer then says nothing more.
func (x *exchange) settled(actual domain.Tokens, missing bool) {
	if x.actual.cost != nil && x.proxy.costs != nil {
		x.proxy.costs.Settled(x.decision().Policy, x.decision().Cost, actual, missing)
	}
	x.actual = actualCost{}
}

// prepareBody reads the request's body if it has to be changed, and changes it.
func (x *exchange) prepareBody() error {
	if cost := x.actual.cost; cost == nil || !cost.IncludeUsage {
		return nil
	}
	if body, changed := usage.AskForUsage(x.body.readAhead()); changed {
		x.body.replace(body)
	}
	return x.body.failure()
}
