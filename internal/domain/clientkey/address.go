package clientkey

import "net/netip"

// ipv6Bits is the prefix length of an IPv6 client: a /64 is one customer's link. One customer may own a /48, which is
// 65,536 such links; ip/48 counts them as one client.
const ipv6Bits, ipv6SiteBits = 64, 48

// ClientAddress is the value of an ip key: mapped IPv4 is IPv4, the zone is dropped, IPv6 is cut to its /64.
// It is "" for the zero Addr.
func ClientAddress(a netip.Addr) string { return Source{}.Address(a) }

// NormalizeAddress is [ClientAddress] for text. Text that is no address is returned unchanged.
func NormalizeAddress(s string) string { return Source{}.Normalize(s) }

// Address is the value of an ip or ip/48 key: as [ClientAddress], with IPv6 cut to the source's prefix.
func (s Source) Address(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsValid():
		return ""
	case a.Is4():
		return a.String()
	}
	prefix, _ := a.Prefix(s.IPv6Prefix()) // fails for a length out of range only
	return prefix.String()
}

// ValidAddress reports whether value is what [Source.Address] returns for an address.
func (s Source) ValidAddress(value string) bool {
	if network, err := netip.ParsePrefix(value); err == nil {
		return network.Addr().Is6() && s.Address(network.Addr()) == value
	}
	a, err := netip.ParseAddr(value)
	return err == nil && s.Address(a) == value
}

// IPv6Prefix is the prefix length of an IPv6 client of the source.
func (s Source) IPv6Prefix() int {
	if s.Kind == SourceIP48 {
		return ipv6SiteBits
	}
	return ipv6Bits
}

// Normalize returns a caller's value in the form of the source's own values: an address becomes what
// [Source.Address] returns for it; any other text is returned unchanged.
func (s Source) Normalize(value string) string {
	if !s.IsAddress() {
		return value
	}
	if a, err := netip.ParseAddr(value); err == nil {
		return s.Address(a)
	}
	return value
}
