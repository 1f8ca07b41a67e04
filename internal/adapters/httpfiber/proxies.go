package httpfiber

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// Proxies are the peers whose X-Forwarded-For is believed. The zero value trusts nobody.
type Proxies struct{ prefixes []netip.Prefix }

// named are the words that stand for well-known networks.
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
				errs = append(errs, violation("TRUSTED_PROXIES", strconv.Quote(entry),
					"must be a CIDR, an address, loopback or private"))
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
		addr = plain(addr)
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

// plain is the one form in which addresses are compared: mapped IPv4 is IPv4, and there is no zone.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
