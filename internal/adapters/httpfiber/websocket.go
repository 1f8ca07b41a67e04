package httpfiber

import (
	"io"
	"net"

	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/upstream"
)

// tunnels reports whether an answer's 101 is what was asked for. WebSocket is the only protocol that may be upgraded to:
// through HTTP/2 without TLS, requests would pass that no limit has seen.
func (h *header) tunnels(a *upstream.Answer) bool {
	return h.upgrade && equalFold(a.Header.Peek(fasthttp.HeaderUpgrade), "websocket")
}

// tunnel answers 101, and then carries bytes in both directions.
func tunnel(ctx *fasthttp.RequestCtx, a *upstream.Answer, limited bool) {
	copyAnswerHeader(&ctx.Response.Header, a.Header, limited)
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
