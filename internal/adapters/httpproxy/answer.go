package httpproxy

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/web/problem"
	"github.com/velocity-limiter/velocity/internal/web/requestid"
)

// drained is the most of a body that is worth reading so that the connection of a request which is not forwarded can be used
// again.
const drained = 64 << 10

// limitNames are the names of the rate limit headers as net/http spells them, but for Retry-After: an upstream's own stays.
var limitNames = [...]string{
	"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Retry-After", "X-Ratelimit-Store", "X-Ratelimit-Shadow",
	"Ratelimit", "Ratelimit-Policy",
}

// limitFields are the rate limit headers of one answer.
type limitFields struct {
	set    func(name string, value []byte) // f.add: making the method value allocates
	names  []string
	ends   []int // of the values in text
	text   []byte
	values []string
	buf    []byte
}

func (f *limitFields) add(name string, value []byte) {
	f.names = append(f.names, name)
	f.text = append(f.text, value...)
	f.ends = append(f.ends, len(f.text))
}

// finishHeader makes the header of an answer what the client gets: where a limit decided, its headers stand instead of any of
// the same names. Those of a family that is not sent stay the upstream's. net/http copies the header before this memory is used again.
func (x *exchange) finishHeader(h http.Header) {
	f := &x.fields
	f.names, f.ends, f.text = f.names[:0], f.ends[:0], f.text[:0]
	if x.decided {
		f.buf = x.proxy.headers.Fields(x.decision(), f.buf[:0], f.set)
	}
	f.values = append(f.values[:0], x.id)
	text, begin := string(f.text), 0
	for _, end := range f.ends {
		f.values = append(f.values, text[begin:end])
		begin = end
	}
	h[requestid.Header] = f.values[:1:1]
	if len(f.names) > 0 {
		for _, name := range x.proxy.replaced {
			delete(h, name)
		}
	}
	for i, name := range f.names {
		h[name] = f.values[i+1 : i+2 : i+2]
	}
	x.proxy.cors.Fields(only(x.in.Header["Origin"], ""), !x.fromUpstream, func(name, value string) { addToList(h, name, value) })
	if x.fromUpstream {
		keepSilent(h, "Content-Type")
		keepSilent(h, "Date")
	}
	if x.closing = x.closing || x.closes(); x.closing {
		h["Connection"] = []string{"close"}
	}
}

// addToList adds an element to a header that is a list, unless Vary has it already.
func addToList(h http.Header, name, value string) {
	if name == "Vary" && (listed(h[name], value) || listed(h[name], "*")) {
		return
	}
	h[name] = []string{continued(h[name], value)}
}

// replacedNames returns the names of those headers, as net/http spells them, that a decision's headers replace.
func replacedNames(families decision.HeaderFamilies) (names []string) {
	for _, name := range families.Names() {
		if name = http.CanonicalHeaderKey(name); slices.Contains(limitNames[:], name) {
			names = append(names, name)
		}
	}
	return names
}

// keepSilent keeps net/http from adding a field that the upstream did not send.
func keepSilent(h http.Header, name string) {
	if _, ok := h[name]; !ok {
		h[name] = nil
	}
}

// closes reports whether the connection ends with the answer: the server is stopping, what follows is the rest of a body, or
// net/http may have removed a Content-Length beside Transfer-Encoding, or Transfer-Encoding from HTTP/1.0, without saying so:
// what follows may be part of this request to a server before ours. Over HTTP/2, net/http then says that no further requests
// are taken.
func (x *exchange) closes() bool {
	if x.proxy.draining.Load() {
		return true
	}
	if x.in.ProtoMajor != 1 {
		return false
	}
	if !x.in.ProtoAtLeast(1, 1) || len(x.in.TransferEncoding) > 0 || x.body.broken() {
		return true
	}
	if !x.body.unfinished() {
		return false
	}
	return x.fromUpstream || x.in.ContentLength < 0 || x.in.ContentLength > drained || x.in.Header.Get("Expect") != ""
}

// inspect is called with the upstream's answer before it is passed on.
func inspect(res *http.Response) error {
	x := exchangeOf(res.Request)
	x.res = res
	if res.StatusCode == http.StatusSwitchingProtocols {
		return x.switchProtocol(res)
	}
	x.actual.answer(res.Header)
	// A trailer is no second value of a header, nor one that a limit or the server sets. See dropTrailers.
	for name := range res.Trailer {
		if _, twice := res.Header[name]; twice || !isTrailer(name) {
			delete(res.Trailer, name)
		}
	}
	if x.in.Method == http.MethodHead {
		return nil
	}
	if len(res.Trailer) > 0 && x.in.ProtoMajor == 1 { // where only chunks have a trailer; an upstream in HTTP/2 may give a length, too
		delete(res.Header, "Content-Length")
		res.ContentLength = -1
	}
	x.length = res.ContentLength
	return nil
}

// dropTrailers drops the trailers that inspect could not, since the upstream did not announce them.
func (x *exchange) dropTrailers() {
	if x.res == nil || len(x.res.Trailer) == 0 {
		return
	}
	h := x.Header()
	for key := range h {
		if name, trailer := strings.CutPrefix(key, http.TrailerPrefix); trailer {
			if _, twice := h[name]; twice || !isTrailer(name) {
				delete(h, key)
			}
		}
	}
}

// switchProtocol makes the header of a 101, which the ReverseProxy writes by itself.
func (x *exchange) switchProtocol(res *http.Response) error {
	if !x.upgrade || !strings.EqualFold(res.Header.Get("Upgrade"), "websocket") {
		return errSwitch
	}
	for _, line := range res.Header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.Trim(name, " \t"); !strings.EqualFold(name, "Upgrade") {
				res.Header.Del(name)
			}
		}
	}
	x.status = res.StatusCode
	x.finishHeader(res.Header)
	res.Header["Connection"], res.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	return nil
}

// isTrailer reports whether a field may stand in a trailer: none that frames, routes or describes a message, or that limits
// or proxies set. Servers that merge the two would take it for the header's.
func isTrailer(name string) bool {
	switch name {
	case "Connection", "Content-Length", "Forwarded", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Proxy-Connection", "Te", "Traceparent", "Tracestate", "Trailer", "Transfer-Encoding", "Upgrade", "X-Request-Id":
		return false
	}
	return validName(name) && !drops(name, false) && !slices.Contains(limitNames[:], name)
}

// validName reports whether a name is a token (RFC 9110 section 5.6.2). net/http takes names of trailers that hold spaces.
func validName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case '0' <= c && c <= '9', 'a' <= c|0x20 && c|0x20 <= 'z':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0:
			return false
		}
	}
	return name != ""
}

// forwardsTrailer reports whether a field of the request's trailer reaches the upstream.
func forwardsTrailer(in *http.Request, name string) bool {
	_, twice := in.Header[name]
	return !twice && isTrailer(name) && !listed(in.Header["Connection"], name)
}

// deny answers a request that a limit does not let pass.
func (x *exchange) deny() {
	p := problem.Denied(x.decision())
	x.problem(&p)
}

// refuse answers a request that is not decided, or that failed.
func (x *exchange) refuse(err error) {
	p := problem.Of(err)
	if p.Challenge != "" {
		x.Header()["Www-Authenticate"] = []string{p.Challenge}
	}
	// Over HTTP/1, where the next request begins may be unclear.
	x.closing = x.closing || x.in.ProtoMajor == 1 && errors.Is(err, problem.ErrMalformed)
	x.problem(&p)
}

// problem answers with a problem.
func (x *exchange) problem(p *problem.Problem) {
	x.fromUpstream = false
	var contentType string
	x.buf, contentType = p.AppendBody(x.buf[:0], x.id, x.path)
	h := x.Header()
	h["Content-Type"] = []string{contentType}
	h["Content-Length"] = []string{strconv.Itoa(len(x.buf))}
	if p.RetrySeconds > 0 {
		h["Retry-After"] = []string{strconv.FormatInt(p.RetrySeconds, 10)}
	}
	x.length = int64(len(x.buf))
	x.WriteHeader(p.Status)
	_, _ = x.Write(x.buf) // whose failure the client sees by itself
}
