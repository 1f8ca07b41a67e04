package domain

import "net/netip"

// ipv6Bits is how much of an IPv6 address names a client: a /64 is one customer's link. A customer may hold a whole
// /48, which is 65,536 of them: ip/48 counts those together.
const ipv6Bits, ipv6SiteBits = 64, 48

// ClientAddress is the value of an ip key: mapped IPv4 is IPv4, the zone is dropped, IPv6 is cut to its /64.
// The zero Addr gives "".
func ClientAddress(a netip.Addr) string { return addressText(a, ipv6Bits) }

// NormalizeAddress is [ClientAddress] for text: what is no address is taken as it is.
func NormalizeAddress(s string) string { return KeySource{}.Normalize(s) }

// Address is the value of an ip or ip/48 key: as [ClientAddress], with IPv6 cut to the source's prefix.
func (s KeySource) Address(a netip.Addr) string {
	return addressText(a, s.ipv6Prefix())
}

// ipv6Prefix is how much of an IPv6 address names a client of the source.
func (s KeySource) ipv6Prefix() int {
	if s.Kind == SourceIP48 {
		return ipv6SiteBits
	}
	return ipv6Bits
}

// Normalize puts a value that a caller wrote into the form that the source's own values have: an address is cut as
// [KeySource.Address] does, and whatever else is taken as it is.
func (s KeySource) Normalize(value string) string {
	if !s.IsAddress() {
		return value
	}
	if a, err := netip.ParseAddr(value); err == nil {
		return s.Address(a)
	}
	return value
}

func addressText(a netip.Addr, bits int) string {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	prefix, _ := a.Prefix(bits) // fails for a length out of range only
	return prefix.String()
}
