package httpproxy

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/bearer"
	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
	"github.com/velocity-limiter/velocity/internal/web/clientid"
	"github.com/velocity-limiter/velocity/internal/web/cors"
	"github.com/velocity-limiter/velocity/internal/web/dataplane"
	"github.com/velocity-limiter/velocity/internal/web/keyvalue"
	"github.com/velocity-limiter/velocity/internal/web/problem"
	"github.com/velocity-limiter/velocity/internal/web/sampledlog"
)

// proxy decides requests and forwards those that may pass.
type proxy struct {
	limiter  ports.Limiter
	permits  ports.Permits
	clients  *clientid.Finder
	paths    cleanpath.Rules
	api      API
	tokens   *bearer.Tokens
	upstream *upstream
	reverse  httputil.ReverseProxy
	tracer   ports.Tracer       // nil records nothing
	costs    ports.CostObserver // nil observes nothing
	claims   keyvalue.Tokens    // nil: no request has claims
	headers  decision.HeaderFamilies
	replaced []string // the headers of an upstream that those of a decision replace
	cors     cors.Rules
	draining *atomic.Bool
	log      *zap.Logger
	failures *zap.Logger // log, with few lines

	host        string // what the upstream sees; empty: the client's own
	proto       string // what clients speak: http or https
	read, write time.Duration

	exchanges sync.Pool    // of *exchange
	running   atomic.Int64 // the number of exchanges that have not ended
	// aheadMemory is what bodies hold that were read before they are forwarded, in bytes.
	aheadMemory atomic.Int64
	mostAhead   int64           // that aheadMemory may be
	tunnels     context.Context // ends when WebSockets have to
	// endTunnels ends tunnels.
	endTunnels context.CancelFunc
}

func newProxy(
	cfg dataplane.Config, to Config, limiter ports.Limiter, permits ports.Permits, api API, logger *zap.Logger,
) (*proxy, error) {
	proxies, err := clientid.ParseProxies(cfg.TrustedProxies)
	if err != nil {
		return nil, err
	}
	pages, err := cfg.CORS()
	if err != nil {
		return nil, err
	}
	server, err := newUpstream(to)
	if err != nil {
		return nil, err
	}
	p := &proxy{
		limiter: limiter, permits: permits, clients: clientid.NewFinder(proxies, logger), paths: cfg.Paths(), api: api,
		tokens: cfg.Tokens(), upstream: server, log: logger, failures: sampledlog.New(logger),
		headers: cfg.Headers(), replaced: replacedNames(cfg.Headers()), cors: pages,
		host: to.Host, proto: schemeHTTP, read: cfg.ReadTimeout, write: cfg.WriteTimeout,
		mostAhead: int64(cmp.Or(to.BodyBytes, DefaultBodyBytes)),
	}
	if cfg.TLSCertFile != "" {
		p.proto = schemeHTTPS
	}
	p.tunnels, p.endTunnels = context.WithCancel(context.Background())
	p.exchanges.New = func() any { return newExchange(p) }
	p.reverse = httputil.ReverseProxy{
		Rewrite: rewrite, Transport: server, BufferPool: new(pieces), ModifyResponse: inspect, ErrorHandler: failed,
		ErrorLog: log.New(io.Discard, "", 0), // what breaks off is logged with the request's id
		// No FlushInterval: a negative one flushes answers without a body, too, in another goroutine. gRPC's status then
		// arrives in a header that is no trailer. The exchange flushes what comes in pieces.
	}
	return p, nil
}

// ServeHTTP implements http.Handler: every request passes it.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := p.exchanges.Get().(*exchange)
	p.running.Add(1)
	defer func() {
		reason := recover()
		aborted := x.end(reason)
		p.running.Add(-1)
		p.exchanges.Put(x)
		if aborted {
			panic(http.ErrAbortHandler) // net/http ends the connection or stream, so that the client sees a broken answer
		}
	}()
	x.begin(w, r)
	err := x.readTarget()
	if most, ours := p.api.MaxBody[x.path]; ours && err == nil {
		x.serveAPI(most)
		return
	}
	if p.tracer != nil {
		x.trace()
	}
	if err == nil {
		err = x.checkRequest()
	}
	if err == nil {
		err = x.decide()
	}
	switch {
	case err != nil && x.body.failure() == nil && x.left(): // while it waited
		panic(http.ErrAbortHandler)
	case err != nil:
		x.refuse(err)
	case !x.decision().Allowed():
		x.deny()
	default:
		x.forward()
	}
}

// awaitEnds waits until no request is in flight, at most that long.
func (p *proxy) awaitEnds(most time.Duration) {
	const pause = 5 * time.Millisecond
	for until := time.Now().Add(most); p.running.Load() > 0 && time.Now().Before(until); {
		time.Sleep(pause)
	}
}

// forward asks the upstream and answers the client.
func (x *exchange) forward() {
	if err := x.prepareBody(); err != nil {
		x.clientFailed = true
		x.refuse(err)
		return
	}
	x.fromUpstream = true
	ctx := context.WithValue(x.in.Context(), exchangeKey{}, x)
	if x.readUpgrade(); x.upgrade {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(x.proxy.tunnels, cancel)()
		x.tunnel = ctx
	}
	if body := x.body; body != nil {
		own, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		defer cancel(nil)
		body.giveUp, body.patience = cancel, x.proxy.upstream.timeout
		defer context.AfterFunc(ctx, body.requestEnded)()
		ctx = own
	}
	x.proxy.reverse.ServeHTTP(x, x.in.WithContext(ctx))
	x.dropTrailers()
	x.answered()
}

// answered is called when the answer is whole. A request counts as answered by its status only if the client got the whole
// answer, as far as can be known. A client that cancels has spent its tokens, since the upstream may have done the work.
func (x *exchange) answered() {
	x.settle(true)
	if !x.decision().RefundOn.Has(x.status) || x.clientFailed || x.left() {
		return
	}
	// Over HTTP/2 a flush would send the status of gRPC without the end of the stream.
	if x.in.ProtoMajor == 1 && x.tunnel == nil && x.FlushError() != nil {
		return
	}
	x.refund()
	x.settled(0, false)
}

// failed answers for an upstream that did not.
func failed(w http.ResponseWriter, out *http.Request, err error) {
	x := w.(*exchange)
	if x.hijacked {
		return
	}
	if cause := x.body.failure(); cause != nil {
		x.clientFailed = true
		x.refuse(cause)
		return
	}
	if x.left() {
		panic(http.ErrAbortHandler)
	}
	if errors.Is(context.Cause(out.Context()), errUnread) {
		err = errUnread
	}
	text, _, _ := strings.Cut(err.Error(), `"`) // it may quote an answer, which may repeat the request
	x.proxy.failures.Warn("The upstream failed", zap.String("requestID", x.id), zap.String("error", text))
	status := problem.ErrUpstream
	if timedOut(err) {
		status = problem.ErrUpstreamTimeout
	}
	x.refuse(status)
}

// left reports whether the client has left.
func (x *exchange) left() bool { return x.in.Context().Err() != nil && !x.body.wasInterrupted() }

// brokeOff logs an answer that breaks off, if the upstream broke it off.
func (x *exchange) brokeOff() {
	if x.writeErr == nil && x.body.failure() == nil && !x.left() {
		x.proxy.failures.Warn("The upstream's answer broke off, and so does ours", zap.String("requestID", x.id))
	}
}

// pieces is the memory in which bodies are copied.
type pieces struct{ pool sync.Pool }

// pieceSize is the most of a body that is copied at once.
const pieceSize = 32 << 10

// Get implements httputil.BufferPool.
func (p *pieces) Get() []byte {
	if b, ok := p.pool.Get().(*[pieceSize]byte); ok {
		return b[:]
	}
	return make([]byte, pieceSize)
}

// Put implements httputil.BufferPool.
func (p *pieces) Put(b []byte) { p.pool.Put((*[pieceSize]byte)(b)) }

// errSwitch is the error of an answer that switches to a protocol which was not asked for.
var errSwitch = errors.New("the upstream switches to another protocol than it was asked for")
