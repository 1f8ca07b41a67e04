// Package decider has a Limiter decide the request that a fasthttp context holds.
package decider

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/reply"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/span"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
	"github.com/velocity-limiter/velocity/internal/web/clientid"
	"github.com/velocity-limiter/velocity/internal/web/keyvalue"
	"github.com/velocity-limiter/velocity/internal/web/sampledlog"
	"github.com/velocity-limiter/velocity/internal/web/target"
)

// Config says how a Decider reads requests. The zero value trusts no proxy, and logs nothing.
type Config struct {
	Proxies clientid.Proxies
	Paths   cleanpath.Rules
	// PathsAreNormal is set where the server puts paths into their normal form before routing.
	PathsAreNormal bool
	// Permits are those that requests hold; see [Decider.End]. Nil: they hold none, and a policy with a concurrency limit is an error.
	Permits ports.Permits
	// Waits says that requests may wait, as long as the policy lets them.
	Waits bool
	// Tokens verifies the tokens of requests. Nil: no request has claims.
	Tokens keyvalue.Tokens
	// Headers are the families of limit headers that answers have.
	Headers decision.HeaderFamilies
	Log     *zap.Logger
}

// Decider decides requests. Make it with New. It is safe for concurrent use.
type Decider struct {
	limiter  ports.Limiter
	cfg      Config
	clients  *clientid.Finder
	failures *zap.Logger // cfg.Log, with few lines
	scratch  sync.Pool   // of *RequestScratch
}

// New returns a Decider over limiter.
func New(limiter ports.Limiter, cfg Config) *Decider {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	d := &Decider{limiter: limiter, cfg: cfg, clients: clientid.NewFinder(cfg.Proxies, cfg.Log), failures: sampledlog.New(cfg.Log)}
	d.scratch.New = func() any { return new(RequestScratch) }
	return d
}

// VerifyTokens sets [Config.Tokens]. It is for the time before the first request.
func (d *Decider) VerifyTokens(t keyvalue.Tokens) { d.cfg.Tokens = t }

// Trusts reports whether peer is a trusted proxy.
func (d *Decider) Trusts(peer netip.Addr) bool { return d.cfg.Proxies.Trusts(peer) }

// Normalize puts a path into its normal form.
func (d *Decider) Normalize(path string) (string, error) { return d.cfg.Paths.Normalize(path) }

// Target is what a request asks for, as policies match it. Path is in its normal form.
type Target struct{ Method, Host, Path, Query string }

// Target returns the target of the request itself. Its strings are valid inside the handler alone.
func (d *Decider) Target(ctx *fasthttp.RequestCtx) (Target, error) {
	t := Target{
		Method: utils.UnsafeString(ctx.Method()), Host: utils.UnsafeString(ctx.URI().Host()),
		Path: utils.UnsafeString(ctx.URI().PathOriginal()), Query: utils.UnsafeString(RawQuery(&ctx.Request.Header)),
	}
	if d.cfg.PathsAreNormal {
		return t, nil
	}
	var err error
	t.Path, err = d.Normalize(t.Path)
	return t, err
}

// RawQuery is the query of a request target, as it was sent; nil if there is none.
func RawQuery(h *fasthttp.RequestHeader) []byte {
	_, query, found := bytes.Cut(h.RequestURI(), []byte("?"))
	if !found {
		return nil
	}
	query, _, _ = bytes.Cut(query, []byte("#"))
	return query
}

// Decide decides a request for t into s. It returns when the request's turn has come. background is the context of the decision
// where the request has no span.
func (d *Decider) Decide(background context.Context, ctx *fasthttp.RequestCtx, s *RequestScratch, t Target) error {
	if err := target.CheckMethod(t.Method); err != nil {
		return err
	}
	s.header = &ctx.Request.Header
	s.values.Tokens = d.cfg.Tokens
	s.values.Reset(s, t.Query)
	req := &s.req[0]
	req.Cost, req.PolicyCost, req.Hold = 1, true, d.cfg.Permits != nil
	if d.cfg.Waits {
		req.MaxWait = policy.MaxMaxWait
	}
	peer := clientid.Peer(ctx.RemoteAddr())
	req.Trusted = d.Trusts(peer)
	req.Method, req.Host, req.Path = t.Method, t.Host, t.Path
	req.Client = d.clients.Client(peer, req.Trusted, s.header.PeekAll(fasthttp.HeaderXForwardedFor))
	req.Lookup, req.Elements = s.values.Lookup, s.values.Elements
	req.ID = reply.RequestID(ctx)
	active, recorded := span.Of(ctx)
	if recorded {
		background, req.TraceID = active.Context(), active.TraceID()
	}
	d.limiter.DecideMany(background, s.req[:], s.answer[:])
	if err := s.answer[0].Err; err != nil {
		return err
	}
	if ignored := s.Decision().IgnoredHeader; ignored != "" {
		d.clients.HeaderIgnored(ignored, peer)
	}
	active.Decided(s.Decision())
	return nil
}

// Deny answers a request that Decide did not allow, with status or, if that is 0, with the usual one.
func (d *Decider) Deny(ctx *fasthttp.RequestCtx, s *RequestScratch, status int) {
	reply.Denial(ctx, d.cfg.Headers, s.Decision(), status, &s.buf)
}

// SetHeaders sets the limit headers of what Decide decided.
func (d *Decider) SetHeaders(ctx *fasthttp.RequestCtx, s *RequestScratch) {
	reply.RateLimitHeaders(&ctx.Response.Header, d.cfg.Headers, s.Decision(), &s.buf)
}

// Refund gives the tokens back if the policy refunds requests that are answered with status. It does so once per request:
// a refund whose outcome is unknown is not sent again, because then both might be carried out. It ends the request's permit,
// unless the answer has yet to be sent.
func (d *Decider) Refund(ctx *fasthttp.RequestCtx, s *RequestScratch, status int) {
	decision := s.Decision()
	if !decision.RefundOn.Has(status) {
		return
	}
	decision.RefundOn = policy.StatusSet{} // an answer may fail after its header was sent
	active, _ := span.Of(ctx)
	refund := decision.Refund(s.req[0])
	if answersLater(ctx) {
		refund.Permit = noPermit
	}
	if _, err := d.limiter.Decide(active.Context(), refund); err != nil {
		d.failures.Warn("A refund may be lost", zap.String("requestID", reply.RequestID(ctx)), zap.Error(err))
	}
}

// RequestScratch is the memory of one request, which later requests use again. Fields that are arrays of one spare the
// allocation of a slice for DecideMany.
type RequestScratch struct {
	req    [1]policy.Request
	answer [1]ports.Answer
	header *fasthttp.RequestHeader
	values keyvalue.Finder
	buf    []byte // for reply.RateLimitHeaders
}

// Scratch returns the memory for one request. Give it back with Release.
func (d *Decider) Scratch() *RequestScratch { return d.scratch.Get().(*RequestScratch) }

// Release gives back s, whose decision must not be used from then on.
func (d *Decider) Release(s *RequestScratch) {
	s.answer[0].Err, s.answer[0].Decision = nil, decision.Decision{Limits: s.answer[0].Decision.Limits[:0]}
	s.req[0], s.header = policy.Request{}, nil
	d.scratch.Put(s)
}

// Decision is what Decide decided.
func (s *RequestScratch) Decision() *decision.Decision { return &s.answer[0].Decision }

// Values implements keyvalue.Header. fasthttp uses the memory of the values again for the connection's next request.
func (s *RequestScratch) Values(name string) (first string, lines int) {
	values := s.header.PeekAll(name)
	if len(values) == 0 {
		return "", 0
	}
	if lines = len(values); lines == 1 && storedOnce(name) && sentTwice(s.header.RawHeaders(), name) {
		lines = 2
	}
	return utils.UnsafeString(values[0]), lines
}

// Cookies implements keyvalue.Header.
func (s *RequestScratch) Cookies(name string) (first string, cookies int) {
	for key, cookie := range s.header.Cookies() {
		if string(key) != name {
			continue
		}
		if cookies++; cookies == 1 {
			first = utils.UnsafeString(cookie)
		}
	}
	return first, cookies
}

// storedOnce reports whether fasthttp keeps only the last line of a header.
func storedOnce(name string) bool {
	return strings.EqualFold(name, fasthttp.HeaderUserAgent) || strings.EqualFold(name, fasthttp.HeaderContentType)
}

func sentTwice(raw []byte, name string) bool {
	n := 0
	for line := range bytes.Lines(raw) {
		if len(line) > len(name) && line[len(name)] == ':' &&
			strings.EqualFold(utils.UnsafeString(line[:len(name)]), name) {
			n++
		}
	}
	return n > 1
}
