package httpproxy

import (
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/web/clientid"
	"github.com/velocity-limiter/velocity/internal/web/problem"
	"github.com/velocity-limiter/velocity/internal/web/requestid"
	"github.com/velocity-limiter/velocity/internal/web/target"
)

// parsePeer parses the address of a connection's other end; the zero Addr if it has none, as on a Unix socket.
func parsePeer(remote string) netip.Addr {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return clientid.Plain(peer.Addr())
}

// readTarget reads path and query, as they were sent, and puts the path into its normal form.
func (x *exchange) readTarget() error {
	path, query, err := target.Split(x.in.RequestURI)
	if err != nil {
		x.path = x.in.URL.Path
		return err
	}
	x.path, x.query = path, query
	if path, err = x.proxy.paths.Normalize(path); err == nil {
		x.path = path
	}
	return err
}

// checkRequest refuses what must not reach an upstream, because that may read it in another way than we do.
func (x *exchange) checkRequest() error {
	switch method := x.in.Method; {
	case method == http.MethodConnect || method == http.MethodTrace:
		return problem.Input(problem.ErrMethodNotAllowed, "method", "is not forwarded")
	case !target.ValidHost(x.in.Host):
		return problem.Input(problem.ErrMalformed, "Host", "must be a host name or an address")
	}
	if err := x.checkOnce(); err != nil {
		return err
	}
	return target.CheckMethod(x.in.Method)
}

// checkOnce refuses a second host or length, which HTTP/2 lets pass.
func (x *exchange) checkOnce() error {
	h := x.in.Header
	if host := h["Host"]; len(host) > 0 && only(host, "") != x.in.Host {
		return problem.Input(problem.ErrMalformed, "Host", "must be one")
	}
	if length := h["Content-Length"]; len(length) > 0 && only(length, "") != strconv.FormatInt(x.in.ContentLength, 10) {
		return problem.Input(problem.ErrMalformed, "Content-Length", "must be the length of the body, once")
	}
	return nil
}

// readUpgrade finds out whether the client asks for WebSocket, the only protocol that may be upgraded to: through HTTP/2
// without TLS, requests would pass that no limit has seen. A body or another method would leave open where the tunnel begins.
func (x *exchange) readUpgrade() {
	h := x.in.Header
	upgrade := h["Upgrade"]
	x.upgrade = len(upgrade) == 1 && strings.EqualFold(upgrade[0], "websocket") && listed(h["Connection"], "upgrade") &&
		x.in.Method == http.MethodGet && x.in.ProtoMajor == 1 && x.in.ProtoAtLeast(1, 1) && x.in.ContentLength == 0 &&
		x.proxy.upstream.origin.scheme != schemeH2C
}

// listed reports whether a header that is a list of tokens has one, in any case.
func listed(lines []string, token string) bool {
	return slices.ContainsFunc(lines, func(line string) bool {
		for member := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.Trim(member, " \t"), token) {
				return true
			}
		}
		return false
	})
}

// rewrite makes the request that the upstream gets. The ReverseProxy has removed the hop-by-hop fields, those that Connection
// names, and those by which proxies describe a request.
func rewrite(pr *httputil.ProxyRequest) {
	x, out := exchangeOf(pr.In), pr.Out
	to := &x.proxy.upstream.origin
	out.URL.Scheme, out.URL.Host = to.scheme, to.host
	if to.scheme == schemeH2C {
		out.URL.Scheme = schemeHTTP
	}
	out.URL.Opaque, out.URL.RawQuery = x.path, x.query // Opaque is written as it is
	if x.proxy.host != "" {
		out.Host = x.proxy.host
	}
	for name := range out.Header {
		if drops(name, x.trusted) {
			delete(out.Header, name)
		}
	}
	if !x.upgrade {
		delete(out.Header, "Connection")
		delete(out.Header, "Upgrade")
	}
	if x.actual.readsBody() {
		out.Header["Accept-Encoding"] = identity
	}
	x.describe(out.Header)
	x.frame(out)
}

// drops reports whether a field of the client's is never forwarded. A name with an underscore is dropped: servers that know
// headers as variables read X_Forwarded_For as X-Forwarded-For. Fields that name another URL or method than the request's are
// dropped, since they ask the upstream for what no policy has seen. What proxies say of a request is believed from trusted ones.
func drops(name string, trusted bool) bool {
	switch name {
	case "Expect", "Http2-Settings", "X-Request-Id", "X-Rewrite-Url", "X-Http-Method-Override", "X-Http-Method",
		"X-Method-Override":
		return true
	case "X-Real-Ip":
		return !trusted
	}
	return strings.Contains(name, "_") || strings.HasPrefix(name, "X-Original-") ||
		!trusted && strings.HasPrefix(name, "X-Forwarded-")
}

// describe writes who sent the request, how, and for which host. What an untrusted peer says of it is replaced, what a trusted
// one says is continued.
func (x *exchange) describe(h http.Header) {
	var earlierFor, earlierElements []string
	proto, host := x.proxy.proto, x.in.Host
	if x.trusted {
		earlierFor, earlierElements = x.in.Header["X-Forwarded-For"], x.in.Header["Forwarded"]
		proto, host = only(x.in.Header["X-Forwarded-Proto"], proto), only(x.in.Header["X-Forwarded-Host"], host)
	}
	peer := "unknown" // a connection that has no address
	if x.peer.IsValid() {
		peer = x.peer.String()
	}
	quoted := peer
	if x.peer.Is6() {
		quoted = `"[` + peer + `]"`
	}
	values := [...]string{
		continued(earlierFor, peer), proto, host,
		continued(earlierElements, "for="+quoted+`;host="`+x.in.Host+`";proto=`+x.proxy.proto), x.id,
	}
	for i, name := range [...]string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", requestid.Header} {
		h[name] = values[i : i+1 : i+1]
	}
	if x.span == nil {
		return
	}
	parent, state := x.span.Headers()
	h["Traceparent"] = []string{parent}
	if delete(h, "Tracestate"); state != "" {
		h["Tracestate"] = []string{state}
	}
}

// only returns the value of a field that is there once, and otherwise another.
func only(lines []string, otherwise string) string {
	if len(lines) == 1 {
		return lines[0]
	}
	return otherwise
}

// continued appends an element to a list.
func continued(lines []string, element string) string {
	if len(lines) == 0 {
		return element
	}
	var b strings.Builder
	for _, line := range lines {
		if line != "" {
			b.WriteString(line)
			b.WriteString(", ")
		}
	}
	b.WriteString(element)
	return b.String()
}

// identity keeps the Transport from finding out, in a goroutine, whether a GET has a body.
var identity = []string{"identity"}

// frame says how the body is framed, such that the Transport never sends a request again which may have arrived.
func (x *exchange) frame(out *http.Request) {
	if x.body == nil {
		// A method that may have a body says that there is none. HTTP/2 says by itself what was not processed, and is sent
		// again.
		switch out.Method {
		case http.MethodGet, http.MethodHead, http.MethodOptions:
			if !x.proxy.upstream.http2.Load() {
				out.Body, out.TransferEncoding = noBody{}, identity
			}
		default:
			hideIdempotencyKeys(out.Header)
		}
		return
	}
	x.body.from = out.Body // which ends with the exchange
	out.Body = x.body
	out.ContentLength = x.body.length(out.ContentLength)
	if out.ContentLength < 0 {
		out.TransferEncoding = []string{"chunked"}
		out.Trailer = make(http.Header, len(x.in.Trailer))
		for name := range x.in.Trailer {
			if forwardsTrailer(x.in, name) {
				out.Trailer[name] = nil // announced
			}
		}
		x.body.trailer = out.Trailer
	}
}

// hideIdempotencyKeys spells the fields that make the Transport send a request twice in a way that it does not know.
func hideIdempotencyKeys(h http.Header) {
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, ok := h[name]; ok {
			delete(h, name)
			h[strings.ToLower(name)] = values
		}
	}
}
