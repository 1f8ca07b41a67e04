// Package setting checks the settings of servers and says what is wrong with them.
package setting

import (
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/violation"
)

// Prefix comes before the short names of settings, those in struct tags, to make the names of environment variables. Package
// settings puts it into violations; log lines and answers that name a setting add it themselves.
const Prefix = "VELOCITY_"

// Violations collects everything that is wrong with a server's configuration, by the short names of its settings. The zero
// value is empty.
type Violations struct{ violation.List }

// Addr checks the address of a listener: host:port or :port.
func (v *Violations) Addr(setting, value string) {
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		v.Add(setting, strconv.Quote(value), "must be host:port or :port")
	}
}

// Duration checks that d is at least least.
func (v *Violations) Duration(setting string, d, least time.Duration) {
	if d < least {
		v.Add(setting, d.String(), "must be at least "+least.String())
	}
}

// AtLeastOne checks that n is positive.
func (v *Violations) AtLeastOne(setting string, n int) {
	if n < 1 {
		v.Add(setting, strconv.Itoa(n), "must be at least 1")
	}
}

// LoopbackOnly reports whether a listener on addr can be reached from this machine alone.
func LoopbackOnly(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
