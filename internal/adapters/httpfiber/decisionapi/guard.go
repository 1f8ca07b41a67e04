package decisionapi

import (
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/web/bearer"
	"github.com/velocity-limiter/velocity/internal/web/clientid"
	"github.com/velocity-limiter/velocity/internal/web/hostname"
	"github.com/velocity-limiter/velocity/internal/web/problem"
	"github.com/velocity-limiter/velocity/internal/web/setting"
)

// guard requires a token. If none is set, it lets only this machine and the trusted proxies call, and only with requests
// of their own: forgetting to set a token then lets no other machine spend or refund for others.
func guard(tokens *bearer.Tokens, proxies clientid.Proxies) fiber.Handler {
	return func(c *fiber.Ctx) error {
		ctx := c.Context()
		if tokens.Set() {
			if _, err := tokens.Check(ctx.Request.Header.PeekAll(fasthttp.HeaderAuthorization)); err != nil {
				return err
			}
			return c.Next()
		}
		if reason := notNearby(ctx, proxies); reason != "" {
			return problem.Input(problem.ErrForbidden, "", "while "+setting.Prefix+"API_TOKEN is not set, the decision API answers "+
				"only requests that this machine or a trusted proxy makes itself: "+reason)
		}
		return c.Next()
	}
}

// notNearby says why a request is not one that this machine or a trusted proxy makes itself; "" if it is.
func notNearby(ctx *fasthttp.RequestCtx, proxies clientid.Proxies) string {
	h := &ctx.Request.Header
	if peer := clientid.Peer(ctx.RemoteAddr()); !peer.IsLoopback() && !proxies.Trusts(peer) {
		return "this one comes from another"
	}
	for name := range h.All() {
		if forwards(utils.UnsafeString(name)) {
			return "its header " + string(name) + " shows a proxy"
		}
	}
	if !h.IsHTTP11() { // nginx before 1.29.7 forwards so, and by default without a header that would show it
		return "HTTP/1.0 shows a proxy"
	}
	for _, host := range [][]byte{h.Host(), ctx.URI().Host()} { // they differ if the target is a whole URL
		if !hostname.Local(hostname.Of(string(host))) {
			return "its Host is neither localhost nor an address"
		}
	}
	return ""
}

// forwards reports whether a header is one that proxies add to what they forward.
func forwards(name string) bool {
	name = strings.ToLower(name)
	for _, prefix := range []string{"x-forwarded", "x-original-", "x-envoy-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	switch name {
	case "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip", "cdn-loop":
		return true
	}
	return false
}
