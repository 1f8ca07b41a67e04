// Package hostname reads the host that a request names.
package hostname

import (
	"net"
	"net/netip"
	"strings"
)

// Of returns the name or address in a Host header, in lower case: without port, brackets and final dot.
func Of(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// Local reports whether a name that [Of] returned is localhost or an address.
//
// The page of an attacker can have its own name resolve to this machine, and its scripts then reach local services from the
// browser (DNS rebinding). Such requests name the attacker's host. An address cannot be rebound.
func Local(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil || name == "localhost"
}
