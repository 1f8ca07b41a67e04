package httpfiber

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
)

// fate is what becomes of a request's header on its way to the upstream.
type fate uint8

const (
	fateKeep       fate = iota
	fateDrop            // never forwarded: it is ours, was for us alone, or says something else than what was matched
	fateConnection      // names further headers that were for us alone
	fateUpgrade
	fateTE
	fateFraming
	fateForwarded // what proxies say of a request: believed from trusted ones only
	fateFor
	fateProto
	fateHost
	fateElement
	fateTrace // of W3C Trace Context
)

// fateOf says what becomes of a header. A name with an underscore is dropped: servers that know headers as variables
// read X_Forwarded_For as X-Forwarded-For. Headers that name another URL or method than the request's are dropped, since
// they ask the upstream for what no policy has seen.
func fateOf(name []byte) fate {
	var room [32]byte
	lower := room[:0]
	for _, c := range name {
		if c == '_' {
			return fateDrop
		}
		if len(lower) < cap(lower) {
			if 'A' <= c && c <= 'Z' {
				c |= 0x20
			}
			lower = append(lower, c)
		}
	}
	switch string(lower) { // cut at 32 bytes, which is longer than any of these
	case "host", "expect", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "http2-settings",
		"trailer", "x-request-id", "x-rewrite-url", "x-http-method-override", "x-http-method", "x-method-override":
		return fateDrop
	case "connection":
		return fateConnection
	case "upgrade":
		return fateUpgrade
	case "te":
		return fateTE
	case "content-length", "transfer-encoding":
		return fateFraming
	case "x-forwarded-for":
		return fateFor
	case "x-forwarded-proto":
		return fateProto
	case "x-forwarded-host":
		return fateHost
	case "forwarded":
		return fateElement
	case headerTraceParent, headerTraceState:
		return fateTrace
	case "x-real-ip":
		return fateForwarded
	}
	switch {
	case bytes.HasPrefix(lower, []byte("x-forwarded-")):
		return fateForwarded
	case bytes.HasPrefix(lower, []byte("x-original-")):
		return fateDrop
	}
	return fateKeep
}

// header is a request's header, read once and sorted.
type header struct {
	lines   []headerLine
	fates   []fate
	hops    [][]byte // what Connection lists
	upgrade bool     // to WebSocket
	te      bool     // the client takes trailers
}

// read takes the header apart. It refuses what servers read differently.
func (h *header) read(ctx *fasthttp.RequestCtx) error {
	h.lines, h.fates, h.hops, h.upgrade, h.te = h.lines[:0], h.fates[:0], h.hops[:0], false, false
	raw := rawHeader{ctx.Request.Header.RawHeaders()}
	var framings, upgrades int
	for {
		line, more, err := raw.next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		f := fateOf(line.name)
		switch f {
		case fateConnection:
			listed(line.value, func(member []byte) { h.hops = append(h.hops, member) })
		case fateTE:
			h.te = h.te || hasToken(line.value, "trailers")
		case fateUpgrade:
			upgrades++
			h.upgrade = equalFold(line.value, "websocket")
		case fateFraming:
			framings++
			if len(line.name) != len(fasthttp.HeaderContentLength) && !equalFold(line.value, "chunked") {
				return badHeader("Transfer-Encoding is not chunked")
			}
		default:
		}
		h.lines, h.fates = append(h.lines, line), append(h.fates, f)
	}
	if framings > 1 {
		return badHeader("Content-Length and Transfer-Encoding are both there")
	}
	// A body or another method would leave open where the tunnel begins.
	h.upgrade = h.upgrade && upgrades == 1 && framings == 0 && ctx.IsGet() && ctx.Request.Header.IsHTTP11() &&
		h.isHop("upgrade")
	return nil
}

// isHop reports whether Connection names a header, which then was for us alone.
func (h *header) isHop(name string) bool {
	return slices.ContainsFunc(h.hops, func(hop []byte) bool { return equalFold(hop, name) })
}

func (h *header) has(name string) bool {
	return slices.ContainsFunc(h.lines, func(l headerLine) bool { return equalFold(l.name, name) })
}

// only returns the value of a header that proxies set once; nil if it is not there, or not once.
func (h *header) only(f fate) []byte {
	var value []byte
	for i := range h.lines {
		if h.fates[i] != f {
			continue
		}
		if value != nil {
			return nil
		}
		value = h.lines[i].value
	}
	return value
}

// hopToUs is what is told about the hop from the client, or the proxy before us, to us.
type hopToUs struct {
	peer    netip.Addr
	trusted bool // what the peer says of hops before is believed
	proto   string
	host    []byte // as the request has it
}

// appendHead writes the request line and the header for the upstream, but for what frames the body.
func (h *header) appendHead(dst []byte, ctx *fasthttp.RequestCtx, path string, host []byte, hop hopToUs) []byte {
	dst = append(append(dst, ctx.Method()...), ' ')
	dst = append(dst, path...)
	if query := rawQuery(&ctx.Request.Header); query != nil {
		dst = append(append(dst, '?'), query...)
	}
	dst = append(dst, " HTTP/1.1\r\n"...)
	dst = appendLine(dst, "Host", host)
	for i := range h.lines {
		f := h.fates[i]
		if f == fateKeep && !h.isHop(utils.UnsafeString(h.lines[i].name)) || f == fateForwarded && hop.trusted {
			dst = append(append(dst, h.lines[i].name...), ": "...)
			dst = append(append(dst, h.lines[i].value...), "\r\n"...)
		}
	}
	dst = h.appendForwarding(dst, hop)
	dst = h.appendTrace(dst, ctx)
	dst = appendLine(dst, "X-Request-Id", utils.UnsafeBytes(requestID(ctx)))
	switch {
	case h.upgrade:
		dst = append(dst, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	case h.te:
		dst = append(dst, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	return dst
}

func appendLine(dst []byte, name string, value []byte) []byte {
	dst = append(append(dst, name...), ": "...)
	return append(append(dst, value...), "\r\n"...)
}

// appendForwarding tells the upstream who asked, how, and for which host. What an untrusted peer says of it is
// replaced, what a trusted one says is continued.
func (h *header) appendForwarding(dst []byte, hop hopToUs) []byte {
	dst = append(dst, "X-Forwarded-For: "...)
	dst = h.appendEarlier(dst, fateFor, hop)
	dst = appendPeer(dst, hop.peer)
	dst = append(dst, "\r\n"...)

	proto, host := []byte(nil), []byte(nil)
	if hop.trusted {
		proto, host = h.only(fateProto), h.only(fateHost)
	}
	if proto == nil {
		proto = utils.UnsafeBytes(hop.proto)
	}
	if host == nil {
		host = hop.host
	}
	dst = appendLine(dst, "X-Forwarded-Proto", proto)
	dst = appendLine(dst, "X-Forwarded-Host", host)

	dst = append(dst, "Forwarded: "...)
	dst = h.appendEarlier(dst, fateElement, hop)
	dst = append(dst, "for="...)
	if hop.peer.Is6() {
		dst = append(hop.peer.AppendTo(append(dst, `"[`...)), `]"`...)
	} else {
		dst = appendPeer(dst, hop.peer)
	}
	dst = append(append(dst, `;host="`...), hop.host...)
	dst = append(append(dst, `";proto=`...), hop.proto...)
	return append(dst, "\r\n"...)
}

// appendEarlier writes what a trusted peer says of the hops before it, as the beginning of a list.
func (h *header) appendEarlier(dst []byte, f fate, hop hopToUs) []byte {
	for i := range h.lines {
		if hop.trusted && h.fates[i] == f && len(h.lines[i].value) > 0 {
			dst = append(append(dst, h.lines[i].value...), ", "...)
		}
	}
	return dst
}

func appendPeer(dst []byte, peer netip.Addr) []byte {
	if !peer.IsValid() { // a connection that has no address
		return append(dst, "unknown"...)
	}
	return peer.AppendTo(dst)
}

// appendTrailer writes the trailer of a request, which stands in h once the body has been read. A field that the
// header has too, or that would not be forwarded from there, is left out: servers that merge the two would take it for
// the header's.
func (h *header) appendTrailer(dst []byte, from *fasthttp.RequestHeader) []byte {
	for name := range from.Trailers() {
		key := utils.UnsafeString(name)
		if fateOf(name) != fateKeep || h.isHop(key) || h.has(key) {
			continue
		}
		for _, value := range from.PeekAll(key) {
			dst = appendLine(dst, key, value)
		}
	}
	return dst
}
