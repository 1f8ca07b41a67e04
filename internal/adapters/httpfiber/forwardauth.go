package httpfiber

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// forwardAuthPath is where a proxy asks whether a request that it holds back may pass.
const forwardAuthPath = "/v1/forward-auth"

// belowForwardAuth returns what follows the door's path; ok is false for every other path.
func belowForwardAuth(path string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, forwardAuthPath)
	return rest, ok && (rest == "" || rest[0] == '/')
}

// forwardAuth decides requests that a proxy holds back: Traefik's ForwardAuth, Caddy's forward_auth, nginx's auth_request
// and Envoy's ext_authz over HTTP. The answer is empty, with 200 and the limit headers, or the denial.
//
// Which request it is about is believed from trusted proxies only. Any other peer is itself the client, and what it
// asks for is this door.
type forwardAuth struct {
	limits *middleware
	log    *zap.Logger
	warned atomic.Bool
}

// handle answers any method. rest is what follows the door's path.
func (a *forwardAuth) handle(ctx *fasthttp.RequestCtx, rest string) {
	status, err := deniedStatus(ctx, rest)
	if err != nil {
		writeError(ctx, err)
		return
	}
	v := a.limits.visits.Get().(*visit)
	defer a.limits.leave(v)
	t, err := a.target(ctx, rest)
	if err == nil {
		err = a.limits.ask(context.Background(), ctx, v, t)
	}
	if err != nil {
		writeErrorAs(ctx, err, status)
		return
	}
	d := &v.answer[0].Decision
	if d.Outcome == domain.OutcomeBlocked {
		status = 0 // it is no matter of waiting, and nginx knows 403
	}
	if !d.Allowed() {
		writeDenialAs(ctx, d, status)
		return
	}
	ctx.Response.Header.SetNoDefaultContentType(true)
	setRateLimitHeaders(&ctx.Response.Header, d)
}

// deniedStatus reads ?denied=403, the status of every refusal but of a client that is blocked; 0: each has its own. nginx knows only 401 and 403, and
// answers its client 500 for any other. Below the door the query is that of the request in question, and says nothing
// about the answer.
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
	return 0, &inputError{errMalformed, "denied", "must be 401, 403, 429 or 503, once"}
}

// target is the request in question.
func (a *forwardAuth) target(ctx *fasthttp.RequestCtx, rest string) (target, error) {
	if peer := peerAddr(ctx); !a.limits.clients.proxies.Trusts(peer) {
		if !a.warned.Swap(true) {
			a.log.Warn("A peer that is no trusted proxy asks whether a request may pass, and is taken for the client itself; "+
				"if it is a proxy, set "+envPrefix+"TRUSTED_PROXIES", zap.Stringer("peer", peer))
		}
		return a.limits.targetOf(ctx)
	}
	o := original{header: &ctx.Request.Header, paths: a.limits.paths}
	if rest != "" {
		o.method = utils.UnsafeString(ctx.Method())
		query := rawQuery(o.header)
		o.addURI("path", rest, utils.UnsafeString(query))
	}
	o.read()
	switch {
	case o.err != nil:
		return target{}, o.err
	case o.path == "":
		return target{}, &inputError{errMalformed, "X-Forwarded-Uri", "is missing, and so are X-Original-URI, X-Original-URL " +
			"and a path below " + forwardAuthPath + ": the proxy must say which request it asks about"}
	}
	if o.method == "" {
		o.method = utils.UnsafeString(ctx.Method())
	}
	if o.host == "" {
		o.host = utils.UnsafeString(ctx.URI().Host())
	}
	return target{method: o.method, host: o.host, path: o.path, query: o.query}, nil
}
