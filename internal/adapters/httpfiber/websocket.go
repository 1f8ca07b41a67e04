package httpfiber

import (
	"io"
	"net"

	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/upstream"
	"github.com/velocity-limiter/velocity/internal/domain"
)

// tunnel carries bytes in both directions after an upgrade to WebSocket, the only protocol that may be upgraded to:
// through HTTP/2 without TLS, requests would pass that no limit has seen.
func (p *proxy) tunnel(ctx *fasthttp.RequestCtx, f *forward, a *upstream.Answer, d *domain.Decision) {
	upgrade := a.Header.Peek(fasthttp.HeaderUpgrade)
	if !f.header.upgrade || !equalFold(upgrade, "websocket") {
		a.Close()
		p.failed(ctx, errUpgrade)
		return
	}
	copyAnswerHeader(&ctx.Response.Header, a.Header, len(d.Limits) > 0)
	ctx.Response.Header.Set(fasthttp.HeaderConnection, "Upgrade")
	ctx.Response.Header.Set(fasthttp.HeaderUpgrade, "websocket")
	ctx.Hijack(func(client net.Conn) { carry(client, a) })
}

// carry ends both directions as soon as one has ended: a WebSocket is over then.
func carry(client net.Conn, a *upstream.Answer) {
	defer a.Close()
	in, out := a.Tunnel()
	plain := client.(interface{ UnsafeConn() net.Conn }).UnsafeConn() // fasthttp's own Close does nothing here
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(out, client)
		_ = out.Close()
	}()
	_, _ = io.Copy(plain, in)
	_ = plain.Close()
	_ = out.Close()
	<-done
}
