package domain

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// checkNetwork refuses a network that no client of the source could lie in, whole, or that is not written as one.
func (s KeySource) checkNetwork(pattern string) *FieldError {
	bad := func(reason string) *FieldError {
		return &FieldError{ErrInvalidPolicy, "pattern", strconv.Quote(pattern), reason}
	}
	network, err := netip.ParsePrefix(pattern)
	switch {
	case err != nil:
		return bad("must be a network as in 192.0.2.0/24 or 2001:db8::/48, since clients are addresses here")
	case network.Addr().Is4In6():
		return bad("must be written as IPv4")
	case network.Masked() != network:
		return bad("has bits beyond its length: " + network.Masked().String() + " is the network")
	case network.Addr().Is6() && network.Bits() > s.ipv6Prefix():
		return bad("is less than a client: IPv6 is cut to its /" + strconv.Itoa(s.ipv6Prefix()))
	}
	return nil
}

// networkIndex finds the network of the lowest rank in which an address lies. The zero value has none. Immutable once made.
type networkIndex struct {
	ranks map[netip.Prefix]int32
	// lengths are those of the networks, IPv4's and IPv6's: one look-up for each.
	lengths [2][]int
}

func (x *networkIndex) add(network netip.Prefix, rank int32) {
	if x.ranks == nil {
		x.ranks = map[netip.Prefix]int32{}
	}
	note(x.ranks, network, rank)
	family := &x.lengths[0]
	if network.Addr().Is6() {
		family = &x.lengths[1]
	}
	if !slices.Contains(*family, network.Bits()) {
		*family = append(*family, network.Bits())
	}
}

// find returns the lowest rank of the networks that hold the client, whose text is as [KeySource.Address] writes it;
// noRank if none does. Without allocating, but for a text that is no address.
func (x *networkIndex) find(client string) int32 {
	best := int32(noRank)
	if len(x.ranks) == 0 {
		return best
	}
	text, _, cut := strings.Cut(client, "/")
	address, err := netip.ParseAddr(text)
	if err != nil || cut != address.Is6() {
		return best // a caller's own name for a client
	}
	lengths := x.lengths[0]
	if address.Is6() {
		lengths = x.lengths[1]
	}
	for _, bits := range lengths {
		network, _ := address.Prefix(bits) // fails for a length out of range only
		if rank, there := x.ranks[network]; there {
			best = min(best, rank)
		}
	}
	return best
}
