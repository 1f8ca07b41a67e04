package redisstore

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// address is one entry of the shard list.
type address struct {
	name     string // empty if the entry has none
	hostPort string
}

// identity is what places clients on the shard: it must stay the same for as long as the clients should stay.
func (a address) identity() string {
	if a.name != "" {
		return a.name
	}
	return a.hostPort
}

// hostPorts are the addresses without their names.
func hostPorts(list []address) []string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = a.hostPort
	}
	return out
}

// parseAddresses reads the whole list and reports every entry that is wrong. Two entries with one identity would
// own the same clients; two with one server would count every client's bucket in one place under two shards.
func parseAddresses(entries []string) ([]address, error) {
	if len(entries) == 0 || len(entries) > maxShards {
		return nil, fmt.Errorf(envPrefix+"REDIS_ADDRS: %d addresses: there must be from 1 to %d", len(entries), maxShards)
	}
	var errs []error
	list := make([]address, 0, len(entries))
	identities, servers := make(map[string]bool), make(map[string]bool)
	for i, entry := range entries {
		a, err := parseAddress(entry)
		switch {
		case err != nil:
		case servers[a.hostPort]:
			err = fmt.Errorf("%q: another entry has this address already", a.hostPort)
		case identities[a.identity()]:
			err = fmt.Errorf("%q: another entry has this name already", a.identity())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf(envPrefix+"REDIS_ADDRS: entry %d: %w", i+1, err))
			continue
		}
		identities[a.identity()], servers[a.hostPort] = true, true
		list = append(list, a)
	}
	return list, errors.Join(errs...)
}

// parseAddress reads "host:port" or "name=host:port". Space around the entry is dropped, since lists are written
// with spaces after their commas, and hosts are lower-cased, as DNS does not tell cases apart.
func parseAddress(entry string) (address, error) {
	entry = strings.TrimSpace(entry)
	if entry == "" {
		return address{}, errors.New("is empty")
	}
	if strings.Contains(entry, "@") {
		// It looks like a URL with a password, which must not be shown.
		return address{}, errors.New("must be host:port; credentials belong in " + envPrefix + "REDIS_USERNAME and " +
			envPrefix + "REDIS_PASSWORD")
	}
	name, hostPort, named := strings.Cut(entry, "=")
	if !named {
		name, hostPort = "", entry
	} else if !domain.ValidName(name) {
		return address{}, fmt.Errorf("%q: the name must match [a-z0-9][a-z0-9_-]{0,62}", entry)
	}
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return address{}, fmt.Errorf("%q: must be host:port or name=host:port", entry)
	}
	if !validHost(host) {
		return address{}, fmt.Errorf("%q: the host must be a name or an IP address", entry)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return address{}, fmt.Errorf("%q: the port must be from 1 to 65535", entry)
	}
	return address{
		name:     name,
		hostPort: net.JoinHostPort(strings.ToLower(host), strconv.FormatUint(number, 10)),
	}, nil
}

// validHost refuses what can be neither a name nor an address, so that a slip of the pen is found at the start.
func validHost(host string) bool {
	if host == "" || len(host) > 255 {
		return false
	}
	for i := range len(host) {
		switch c := host[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '.', c == '-', c == '_', c == ':', c == '%':
		default:
			return false
		}
	}
	return true
}
