package httpfiber

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/upstream"
)

// Of an upstream that fails, so many requests are logged in that time, lest an outage fill a disk. The metrics count all.
const (
	failureLines    = 10
	failureInterval = 10 * time.Second
)

// proxy limits what one server is asked, and forwards it.
type proxy struct {
	limits  *middleware
	client  *upstream.Client
	host    string // what the upstream sees; empty: the client's own
	proto   string // of the data plane
	read    time.Duration
	write   time.Duration
	log     *zap.Logger
	forward sync.Pool // of *forward
	// answered is told of each answer of the upstream; nil: nobody is.
	answered func(status int, took time.Duration)
}

func newProxy(cfg Config, limits *middleware, log *zap.Logger) (*proxy, error) {
	to, err := cfg.Upstream.parse()
	if err != nil {
		return nil, err
	}
	sampled := zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, failureInterval, failureLines, 0)
	})
	p := &proxy{
		limits: limits, client: upstream.New(to), host: cfg.Upstream.Host, proto: "http",
		read: cfg.ReadTimeout, write: cfg.WriteTimeout, log: log.WithOptions(sampled),
	}
	if cfg.TLSCertFile != "" {
		p.proto = "https"
	}
	return p, nil
}

// forward is the memory of one forwarded request, used again by later ones.
type forward struct {
	header header
	out    upstream.Request
	body   clientBody
}

// handle decides a request and forwards it if it is allowed.
func (p *proxy) handle(ctx *fasthttp.RequestCtx) {
	f, _ := p.forward.Get().(*forward)
	if f == nil {
		f = new(forward)
	}
	if p.serve(ctx, f) {
		p.forward.Put(f)
	}
}

// serve reports whether f can be used again.
func (p *proxy) serve(ctx *fasthttp.RequestCtx, f *forward) bool {
	if err := p.check(ctx, &f.header); err != nil {
		p.refuse(ctx, err)
		return true
	}
	v := p.limits.visits.Get().(*visit)
	defer p.limits.leave(v)
	t, err := p.limits.targetOf(ctx)
	if err == nil {
		err = p.limits.ask(context.Background(), ctx, v, t)
	}
	if err != nil {
		p.refuse(ctx, err)
		return true
	}
	d := &v.answer[0].Decision
	if !d.Allowed() {
		lingerOverBody(ctx)
		writeDenial(ctx, d)
		return true
	}
	defer setRateLimitHeaders(&ctx.Response.Header, d)
	return p.exchange(ctx, f, t.path, v)
}

// check refuses what must not reach an upstream, because it may read it in another way than we do.
func (p *proxy) check(ctx *fasthttp.RequestCtx, h *header) error {
	if err := h.read(ctx); err != nil {
		return err
	}
	switch method := string(ctx.Method()); {
	case method == fasthttp.MethodConnect || method == fasthttp.MethodTrace:
		return &inputError{errNoMethod, "method", "is not forwarded"}
	case !validHost(ctx.URI().Host()):
		return &inputError{errMalformed, fasthttp.HeaderHost, "holds a character that no host name has"}
	case !validQuery(rawQuery(&ctx.Request.Header)):
		return &inputError{errMalformed, "query", "holds a space or a control character"}
	}
	return nil
}

// refuse answers what is not forwarded.
func (p *proxy) refuse(ctx *fasthttp.RequestCtx, err error) {
	if errors.Is(err, errMalformed) { // and who knows where the next request begins
		ctx.SetConnectionClose()
	}
	lingerOverBody(ctx)
	writeError(ctx, err)
}

// lingerOverBody lets a client that is still sending its body see the answer before the connection closes.
func lingerOverBody(ctx *fasthttp.RequestCtx) {
	if ctx.Request.IsBodyStream() {
		linger(ctx.Conn())
	}
}

// ask is client.Do, told to whoever counts.
func (p *proxy) ask(req *upstream.Request) (*upstream.Answer, error) {
	if p.answered == nil {
		return p.client.Do(req)
	}
	began := time.Now()
	a, err := p.client.Do(req)
	status := 0
	if err == nil {
		status = a.Header.StatusCode()
	}
	p.answered(status, time.Since(began))
	return a, err
}

// exchange asks the upstream and answers the client. It reports whether f can be used again.
func (p *proxy) exchange(ctx *fasthttp.RequestCtx, f *forward, path string, v *visit) bool {
	p.prepare(ctx, f, path)
	a, err := p.ask(&f.out)
	if err == nil && a.Header.StatusCode() == fasthttp.StatusSwitchingProtocols && !f.header.tunnels(a) {
		a.Close()
		err = errUpgrade
	}
	if err != nil {
		p.failed(ctx, v, err)
		return true
	}
	p.limits.refund(ctx, v, a.Header.StatusCode())
	limited := len(v.answer[0].Decision.Limits) > 0
	if a.Header.StatusCode() == fasthttp.StatusSwitchingProtocols {
		tunnel(ctx, a, limited)
		return true
	}
	if a.Sending() { // the upstream has enough of the body; what comes of it is no request
		ctx.SetConnectionClose()
		linger(ctx.Conn())
	}
	copyAnswerHeader(&ctx.Response.Header, a.Header, limited)
	switch {
	case a.Length() == upstream.NoBody:
		if n := a.Header.ContentLength(); n >= 0 { // to HEAD, or 304
			ctx.Response.SetBodyStream(noBody{}, n)
		}
		a.Close()
	case a.Here():
		body := ctx.Response.SwapBody(nil)
		body, err = appendAll(body[:0], a)
		ctx.Response.SwapBody(body)
		a.Close()
		if err != nil { // it is all here, so it is badly framed
			p.failed(ctx, v, err)
		}
	default:
		p.stream(ctx, a)
		return false // its body may still be read
	}
	return true
}

// stream lets fasthttp read the answer's body once the handler has returned.
func (p *proxy) stream(ctx *fasthttp.RequestCtx, a *upstream.Answer) {
	body := &answerBody{
		answer: a, to: &ctx.Response.Header, conn: ctx.Conn(), timeout: p.write, log: p.log,
		id: strings.Clone(requestID(ctx)), direct: a.Length() >= 0,
	}
	// Without a piece of the body there may be none for long, and the header is awaited.
	ctx.Response.ImmediateHeaderFlush = body.direct || !a.Started()
	if !body.direct && !ctx.Request.Header.IsHTTP11() {
		ctx.HijackSetNoResponse(true)
		ctx.Hijack(func(net.Conn) { body.toOldClient(ctx) })
		return
	}
	for name := range a.Header.Trailers() {
		_ = ctx.Response.Header.AddTrailerBytes(name) // it was checked when it was read
	}
	ctx.Response.SetBodyStream(body, a.Length())
}

func appendAll(dst []byte, a *upstream.Answer) ([]byte, error) {
	n := len(dst)
	dst = append(dst, make([]byte, a.Length())...)
	_, err := io.ReadFull(a, dst[n:])
	if err == nil { // the end, so that the connection can be used again
		_, err = a.Read(nil)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return dst, err
}

// failed answers for an upstream that did not. What the client has broken off costs it its tokens: the upstream may have
// done the work.
func (p *proxy) failed(ctx *fasthttp.RequestCtx, v *visit, err error) {
	ctx.Response.ResetBody()
	lingerOverBody(ctx)
	if errors.Is(err, upstream.ErrClient) || errors.Is(err, upstream.ErrClientGone) {
		ctx.SetConnectionClose()
		writeError(ctx, connectionError(err))
		return
	}
	p.log.Warn("The upstream failed", zap.String("requestID", requestID(ctx)), zap.Error(err))
	writeError(ctx, err)
	p.limits.refund(ctx, v, ctx.Response.StatusCode())
}

// prepare makes the request that the upstream gets.
func (p *proxy) prepare(ctx *fasthttp.RequestCtx, f *forward, path string) {
	host := ctx.URI().Host()
	hop := hopToUs{peer: peerAddr(ctx), proto: p.proto, host: host}
	hop.trusted = p.limits.clients.proxies.Trusts(hop.peer)
	if p.host != "" {
		host = utils.UnsafeBytes(p.host)
	}
	f.out.Head = f.header.appendHead(f.out.Head[:0], ctx, path, host, hop)
	f.out.NoAnswerBody = ctx.IsHead()
	f.out.Client = upstream.RawConn(plainConn(ctx.Conn()))
	f.out.Length, f.out.Body, f.out.StopBody, f.out.Trailer = upstream.NoBody, nil, nil, nil
	stream := ctx.RequestBodyStream()
	if stream == nil {
		if !ctx.IsGet() && !ctx.IsHead() { // a method that may have a body says that there is none
			f.out.Length = 0
		}
		return
	}
	f.out.Length = ctx.Request.Header.ContentLength()
	f.body.stream, f.body.conn, f.body.timeout = stream, ctx.Conn(), p.read
	f.body.stopped.Store(false)
	f.out.Body, f.out.StopBody = &f.body, f.body.stop
	if f.out.Length == upstream.Chunked {
		from := &ctx.Request.Header
		f.out.Trailer = func(dst []byte) []byte { return f.header.appendTrailer(dst, from) }
	}
}

// clientBody is a request's body, which may still be arriving. The client has the usual time for each piece.
type clientBody struct {
	stream  io.Reader
	conn    net.Conn
	timeout time.Duration
	stopped atomic.Bool
}

// Read implements io.Reader.
func (b *clientBody) Read(p []byte) (int, error) {
	_ = b.conn.SetReadDeadline(time.Now().Add(b.timeout))
	if b.stopped.Load() {
		_ = b.conn.SetReadDeadline(time.Unix(1, 0))
	}
	return b.stream.Read(p)
}

// stop ends a Read that waits, and those to come.
func (b *clientBody) stop() {
	b.stopped.Store(true)
	_ = b.conn.SetReadDeadline(time.Unix(1, 0))
}

// plainConn is the TCP connection under TLS and our own accounting.
func plainConn(c net.Conn) net.Conn {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	if own, ok := c.(*conn); ok {
		c = own.Conn
	}
	return c
}
