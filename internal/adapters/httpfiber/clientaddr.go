package httpfiber

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"
)

// clientFinder tells who sent a request. Fiber's own IP, IPs and Hostname are not used anywhere: they believe
// forwarding headers of anybody, and read the first of several.
type clientFinder struct {
	proxies Proxies
	log     *zap.Logger
	warned  atomic.Bool
}

// client is the connection's peer or, when that is a trusted proxy, whom X-Forwarded-For names.
func (f *clientFinder) client(peer netip.Addr, trusted bool, h *fasthttp.RequestHeader) netip.Addr {
	lines := h.PeekAll(fasthttp.HeaderXForwardedFor)
	if len(lines) == 0 {
		return peer
	}
	if !trusted {
		f.warnOnce(peer)
		return peer
	}
	if client := f.proxies.forwardedClient(lines); client.IsValid() {
		return client
	}
	return peer
}

// warnOnce tells the operator that a header was ignored which a proxy may have meant. Once, since anybody can send it.
func (f *clientFinder) warnOnce(peer netip.Addr) {
	if f.warned.Swap(true) {
		return
	}
	f.log.Warn("X-Forwarded-For of an untrusted peer is ignored; if the peer is a proxy, set "+
		envPrefix+"TRUSTED_PROXIES", zap.Stringer("peer", peer))
}

// peerAddr is the other end of the connection; the zero Addr if that has none, as on a Unix socket.
func peerAddr(ctx *fasthttp.RequestCtx) netip.Addr {
	if tcp, ok := ctx.RemoteAddr().(*net.TCPAddr); ok {
		return plain(tcp.AddrPort().Addr())
	}
	return netip.Addr{}
}

// forwardedClient walks X-Forwarded-For from the right, where the nearest proxy wrote, to the first address that
// is not a proxy: all left of it may be forged. When every address is a proxy's, it is the left-most. The zero Addr
// if an entry on the way is no address.
func (p Proxies) forwardedClient(lines [][]byte) netip.Addr {
	var addr netip.Addr
	for i := len(lines) - 1; i >= 0; i-- {
		rest := utils.UnsafeString(lines[i])
		for more := true; more; {
			var entry string
			comma := strings.LastIndexByte(rest, ',')
			entry, more = rest[comma+1:], comma >= 0
			if more {
				rest = rest[:comma]
			}
			if addr = parseForwarded(entry); !addr.IsValid() || !p.Trusts(addr) {
				return addr
			}
		}
	}
	return addr
}

// parseForwarded reads one entry: an address, perhaps with a port, which some proxies add. The zero Addr if it is
// neither.
func parseForwarded(entry string) netip.Addr {
	entry = strings.Trim(entry, " \t")
	if addr, err := netip.ParseAddr(entry); err == nil {
		return plain(addr)
	}
	if pair, err := netip.ParseAddrPort(entry); err == nil {
		return plain(pair.Addr())
	}
	if n := len(entry); n > 2 && entry[0] == '[' && entry[n-1] == ']' {
		if addr, err := netip.ParseAddr(entry[1 : n-1]); err == nil {
			return plain(addr)
		}
	}
	return netip.Addr{}
}
