package policy

import (
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// checkNetwork refuses a pattern that is no network, or a network that is smaller than one client of the source.
func checkNetwork(s clientkey.Source, pattern string) *domain.FieldError {
	bad := func(reason string) *domain.FieldError {
		return invalid("pattern", strconv.Quote(pattern), reason)
	}
	network, err := netip.ParsePrefix(pattern)
	if err != nil {
		return bad("must be a network as in 192.0.2.0/24 or 2001:db8::/48, since clients are addresses here")
	}
	if fault := networkFault(network); fault != "" {
		return bad(fault)
	}
	if network.Addr().Is6() && network.Bits() > s.IPv6Prefix() {
		return bad("is less than a client: IPv6 is cut to its /" + strconv.Itoa(s.IPv6Prefix()))
	}
	return nil
}

// networkFault returns why a network is not written as one, or "".
func networkFault(network netip.Prefix) string {
	switch {
	case network.Addr().Is4In6():
		return "must be written as IPv4"
	case network.Masked() != network:
		return "has bits beyond its length: " + network.Masked().String() + " is the network"
	}
	return ""
}

// noRank means that no pattern matches.
const noRank = math.MaxInt32

// networkIndex finds the network of the lowest rank that contains an address. The zero value is empty.
type networkIndex struct {
	ranks map[netip.Prefix]int32
	// lengths are the prefix lengths that occur, of IPv4 and of IPv6. A search does one look-up for each.
	lengths [2][]int
}

func (x *networkIndex) add(network netip.Prefix, rank int32) {
	if x.ranks == nil {
		x.ranks = map[netip.Prefix]int32{}
	}
	keepLowest(x.ranks, network, rank)
	family := &x.lengths[0]
	if network.Addr().Is6() {
		family = &x.lengths[1]
	}
	if !slices.Contains(*family, network.Bits()) {
		*family = append(*family, network.Bits())
	}
}

// keepLowest sets the rank of a pattern, unless it has a lower one already.
func keepLowest[P comparable](ranks map[P]int32, pattern P, rank int32) {
	if known, there := ranks[pattern]; !there || rank < known {
		ranks[pattern] = rank
	}
}

// find returns the lowest rank of the networks that contain the client, or noRank. client is text as
// [clientkey.Source.Address] writes it. find allocates only for text that is no address.
func (x *networkIndex) find(client string) int32 {
	best := int32(noRank)
	if len(x.ranks) == 0 {
		return best
	}
	text, _, cut := strings.Cut(client, "/")
	address, err := netip.ParseAddr(text)
	if err != nil || cut != address.Is6() {
		return best // not an address: a name that a caller gave
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
