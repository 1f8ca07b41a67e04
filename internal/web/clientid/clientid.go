// Package clientid finds the address of the client that sent a request, through proxies that are trusted.
package clientid

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/violation"
	"github.com/velocity-limiter/velocity/internal/web/setting"
)

// Finder finds the client of a request. Make it with NewFinder. It is safe for concurrent use.
//
// Use it instead of what HTTP frameworks offer: those believe the forwarding headers of any peer, and read the first
// address of several.
type Finder struct {
	Proxies Proxies
	log     *zap.Logger
	warned  atomic.Bool
	// warnedHeader is for the headers that decide limits.
	warnedHeader atomic.Bool
}

// NewFinder returns a Finder that believes proxies. It logs once if it ignores the header of another peer.
func NewFinder(proxies Proxies, log *zap.Logger) *Finder { return &Finder{Proxies: proxies, log: log} }

// Client returns the connection's peer or, if that is a trusted proxy, the client that X-Forwarded-For names.
// forwardedFor holds the values of that header, one for each line.
func (f *Finder) Client(peer netip.Addr, trusted bool, forwardedFor [][]byte) netip.Addr {
	if len(forwardedFor) == 0 {
		return peer
	}
	if !trusted {
		f.warnOnce(peer)
		return peer
	}
	if client := f.Proxies.forwardedClient(forwardedFor); client.IsValid() {
		return client
	}
	return peer
}

// warnOnce logs that a header was ignored which a proxy may have meant. It logs once, because anybody can send it.
func (f *Finder) warnOnce(peer netip.Addr) {
	if f.warned.Swap(true) {
		return
	}
	f.log.Warn("X-Forwarded-For of an untrusted peer is ignored; if the peer is a proxy, set "+
		setting.Prefix+"TRUSTED_PROXIES", zap.Stringer("peer", peer))
}

// HeaderIgnored logs that a header that decides limits was ignored, since its peer is not trusted. It logs once for all headers and
// peers, because anybody can send one.
func (f *Finder) HeaderIgnored(header string, peer netip.Addr) {
	if f.warnedHeader.Swap(true) {
		return
	}
	f.log.Warn("A header that decides limits is ignored, because an untrusted peer sent it; if the peer is a proxy that sets or clears "+
		"this header, set "+setting.Prefix+"TRUSTED_PROXIES", zap.String("header", header), zap.Stringer("peer", peer))
}

// Peer returns the address of a connection's other end; the zero Addr if it has none, as on a Unix socket.
func Peer(remote net.Addr) netip.Addr {
	if tcp, ok := remote.(*net.TCPAddr); ok {
		return Plain(tcp.AddrPort().Addr())
	}
	return netip.Addr{}
}

// forwardedClient returns the right-most address of X-Forwarded-For that is not a trusted proxy. The nearest proxy writes at
// the right, and what is left of that address may be forged. If all are proxies it returns the left-most, and if an entry
// on the way is no address the zero Addr.
func (p Proxies) forwardedClient(lines [][]byte) netip.Addr {
	var addr netip.Addr
	for i := len(lines) - 1; i >= 0; i-- {
		rest := unsafe.String(unsafe.SliceData(lines[i]), len(lines[i]))
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

// parseForwarded parses one entry: an address, with or without a port. It returns the zero Addr if the entry is neither.
func parseForwarded(entry string) netip.Addr {
	entry = strings.Trim(entry, " \t")
	if addr, err := netip.ParseAddr(entry); err == nil {
		return Plain(addr)
	}
	if pair, err := netip.ParseAddrPort(entry); err == nil {
		return Plain(pair.Addr())
	}
	if n := len(entry); n > 2 && entry[0] == '[' && entry[n-1] == ']' {
		if addr, err := netip.ParseAddr(entry[1 : n-1]); err == nil {
			return Plain(addr)
		}
	}
	return netip.Addr{}
}

// Proxies are the peers whose X-Forwarded-For is believed. The zero value has none.
type Proxies struct{ prefixes []netip.Prefix }

// named are the words for well-known networks.
var named = map[string][]netip.Prefix{
	"loopback": {netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	"private": { // RFC 1918, RFC 4193
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fc00::/7"),
	},
}

// ParseProxies reads CIDRs, addresses and the words loopback and private. Space around an entry is ignored, and so
// is an empty entry. The error joins one violation per entry that is wrong.
func ParseProxies(list []string) (Proxies, error) {
	var p Proxies
	var errs []error
	for _, entry := range list {
		entry = strings.TrimSpace(entry)
		prefixes, ok := named[entry]
		switch {
		case ok:
			p.prefixes = append(p.prefixes, prefixes...)
		case entry == "":
		default:
			prefix, err := parsePrefix(entry)
			if err != nil {
				errs = append(errs, &violation.Error{
					Setting: "TRUSTED_PROXIES", Value: strconv.Quote(entry),
					Reason: "must be a CIDR, an address, loopback or private",
				})
				continue
			}
			p.prefixes = append(p.prefixes, prefix)
		}
	}
	return p, errors.Join(errs...)
}

func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		addr = Plain(addr)
		return addr.Prefix(addr.BitLen())
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	// ::ffff:10.0.0.0/104 is 10.0.0.0/8: addresses are compared unmapped.
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}

// Trusts reports whether a is one of the proxies. a is unmapped and has no zone.
func (p Proxies) Trusts(a netip.Addr) bool {
	for i := range p.prefixes {
		if p.prefixes[i].Contains(a) {
			return true
		}
	}
	return false
}

// Plain returns a in the one form in which addresses are compared: mapped IPv4 as IPv4, and without a zone.
func Plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
