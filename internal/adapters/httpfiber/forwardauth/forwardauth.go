// Package forwardauth answers proxies that ask whether a request may pass which they hold back.
package forwardauth

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/decider"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/reply"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/clientid"
	"github.com/velocity-limiter/velocity/internal/web/cors"
	"github.com/velocity-limiter/velocity/internal/web/problem"
	"github.com/velocity-limiter/velocity/internal/web/setting"
)

// Path is where a proxy asks.
const Path = "/v1/forward-auth"

// Handler decides requests that a proxy holds back: Traefik's ForwardAuth, Caddy's forward_auth, nginx's auth_request and
// Envoy's ext_authz over HTTP. Make it with New.
//
// A Handler believes trusted proxies when they name the request in question. Any other peer is itself the client, and its
// own request, for Path, is the one in question.
type Handler struct {
	decider *decider.Decider
	log     *zap.Logger
	warned  atomic.Bool
}

// New returns a Handler over d, which normalizes paths itself: Handle is called before the server does.
func New(d *decider.Decider, log *zap.Logger) *Handler { return &Handler{decider: d, log: log} }

// Handle answers a request of any method for Path, or for a path below it, which then ends in the path in question. The
// answer is empty, with 200 and the rate limit headers, or the denial. Under a policy with a concurrency limit it is 501, because a
// Handler does not learn when the request ends. Handle reports false, and answers nothing, for
// every other path.
func (h *Handler) Handle(ctx *fasthttp.RequestCtx) bool {
	rest, ok := strings.CutPrefix(utils.UnsafeString(ctx.URI().PathOriginal()), Path)
	if !ok || rest != "" && rest[0] != '/' {
		return false
	}
	h.answer(ctx, rest)
	return true
}

// answer answers a request. rest is what follows Path.
func (h *Handler) answer(ctx *fasthttp.RequestCtx, rest string) {
	status, err := deniedStatus(ctx, rest)
	if err != nil {
		reply.Error(ctx, err)
		return
	}
	s := h.decider.Scratch()
	defer h.decider.Release(s)
	t, err := h.target(ctx, rest)
	if err == nil {
		err = h.decider.Decide(context.Background(), ctx, s, t)
	}
	switch {
	case errors.Is(err, ports.ErrCannotHold):
		status = 0 // this is the operator's mistake, and must not look like a denial
	case errors.Is(err, domain.ErrMissingKey):
		status = 0 // 401 says that the client must send its key, and nginx knows it
	}
	if err != nil {
		reply.ErrorAs(ctx, err, status)
		return
	}
	d := s.Decision()
	if d.Outcome == decision.OutcomeBlocked {
		status = 0 // waiting does not help a blocked client, and nginx knows 403
	}
	if !d.Allowed() {
		h.decider.Deny(ctx, s, status)
		return
	}
	ctx.Response.Header.SetNoDefaultContentType(true)
	ctx.Response.Header.Del(cors.AllowOrigin) // the client gets the upstream's answer, and the upstream says who may read it
	h.decider.SetHeaders(ctx, s)
}

// deniedStatus reads ?denied=403, the status of every refusal except that of a blocked client, 401 for a missing key, and 501 under
// a policy with a concurrency limit; 0: each has its own status.
// nginx knows only 401 and 403, and answers its client 500 for any other. Below Path the query belongs to the request in
// question, and says nothing about the answer.
func deniedStatus(ctx *fasthttp.RequestCtx, rest string) (int, error) {
	if rest != "" {
		return 0, nil
	}
	switch values := ctx.QueryArgs().PeekMulti("denied"); {
	case len(values) == 0:
		return 0, nil
	case len(values) == 1:
		switch status, _ := strconv.Atoi(utils.UnsafeString(values[0])); status {
		case fasthttp.StatusUnauthorized, fasthttp.StatusForbidden, fasthttp.StatusTooManyRequests,
			fasthttp.StatusServiceUnavailable:
			return status, nil
		}
	}
	return 0, problem.Input(problem.ErrMalformed, "denied", "must be 401, 403, 429 or 503, once")
}

// target is the request in question.
func (h *Handler) target(ctx *fasthttp.RequestCtx, rest string) (decider.Target, error) {
	if peer := clientid.Peer(ctx.RemoteAddr()); !h.decider.Trusts(peer) {
		if !h.warned.Swap(true) {
			h.log.Warn("A peer that is no trusted proxy asks whether a request may pass, and is taken for the client itself; "+
				"if it is a proxy, set "+setting.Prefix+"TRUSTED_PROXIES", zap.Stringer("peer", peer))
		}
		return h.decider.Target(ctx)
	}
	o := original{header: &ctx.Request.Header, normalize: h.decider.Normalize}
	if rest != "" {
		o.method = utils.UnsafeString(ctx.Method())
		query := decider.RawQuery(o.header)
		o.addURI("path", rest, utils.UnsafeString(query))
	}
	o.read()
	switch {
	case o.err != nil:
		return decider.Target{}, o.err
	case o.path == "":
		return decider.Target{}, problem.Input(problem.ErrMalformed, "X-Forwarded-Uri", "is missing, and so are X-Original-URI, X-Original-URL "+
			"and a path below "+Path+": the proxy must say which request it asks about")
	}
	if o.method == "" {
		o.method = utils.UnsafeString(ctx.Method())
	}
	if o.host == "" {
		o.host = utils.UnsafeString(ctx.URI().Host())
	}
	return decider.Target{Method: o.method, Host: o.host, Path: o.path, Query: o.query}, nil
}
