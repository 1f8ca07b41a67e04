package redisstore

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/secret"
	"github.com/velocity-limiter/velocity/internal/violation"
)

// address is one entry of the shard list.
type address struct {
	name     string // empty if the entry has none
	hostPort string
	url      urlParts
}

// urlParts is what only an entry that is a URL says.
type urlParts struct {
	scheme   string // empty if the entry is no URL
	username string
	password secret.Secret
	database int // 0 if the URL does not name one
}

const (
	schemePlain = "redis"
	schemeTLS   = "rediss"
	defaultPort = "6379" // of URLs
)

// identity decides which clients the shard owns. A change of it moves them, so it has neither the scheme nor the user or the
// password. Another database has other buckets, and so another identity.
func (a address) identity() string {
	place := a.hostPort
	if a.url.database != 0 {
		place += "/" + strconv.Itoa(a.url.database)
	}
	return cmp.Or(a.name, place)
}

// hostPorts are the addresses without their names.
func hostPorts(list []address) []string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = a.hostPort
	}
	return out
}

// parseAddresses parses the whole list and reports every entry that is wrong. It refuses two entries with one identity, which
// would own the same clients, and two entries with one server, which would be one shard under two names.
func parseAddresses(entries []string) ([]address, error) {
	if len(entries) == 0 || len(entries) > maxShards {
		return nil, &violation.Error{
			Setting: "REDIS_ADDRS", Value: fmt.Sprintf("%d addresses", len(entries)), Reason: fmt.Sprintf("there must be from 1 to %d", maxShards),
		}
	}
	var v violation.List
	list := make([]address, 0, len(entries))
	identities, servers := make(map[string]bool), make(map[string]bool)
	for i, entry := range entries {
		a, err := parseAddress(entry)
		switch {
		case err != nil:
		case servers[a.hostPort]:
			err = &entryError{a.hostPort, "another entry has this address already"}
		case identities[a.identity()]:
			err = &entryError{a.identity(), "another entry has this name already"}
		}
		if err != nil {
			v.Add("REDIS_ADDRS", err.value(fmt.Sprintf("entry %d", i+1)), err.reason)
			continue
		}
		identities[a.identity()], servers[a.hostPort] = true, true
		list = append(list, a)
	}
	return list, v.Err()
}

// entryError says what is wrong with an entry.
type entryError struct {
	shown  string // what may be shown of the entry; empty: nothing, since it may have a password
	reason string
}

// value returns what is shown as the value of the setting.
func (e *entryError) value(prefix string) string {
	if e.shown == "" {
		return prefix
	}
	return prefix + ": " + strconv.Quote(e.shown)
}

// parseAddress parses "host:port", "name=host:port", or a URL, which may have a name before it as well. It drops space around
// the entry, since lists are written with spaces after commas, and lower-cases hosts, since DNS ignores case.
func parseAddress(entry string) (address, *entryError) {
	entry = strings.TrimSpace(entry)
	if entry == "" {
		return address{}, &entryError{"", "is empty"}
	}
	name, rest := "", entry
	// A password may have an equals sign, so the first one ends a name only if it comes before the scheme.
	if before, after, found := strings.Cut(entry, "="); found && !strings.Contains(before, "://") {
		name, rest = before, after
		if !domain.ValidName(name) {
			return address{}, &entryError{withoutLogin(entry), "the name must match [a-z0-9][a-z0-9_-]{0,62}"}
		}
	}
	var a address
	var err *entryError
	switch {
	case strings.Contains(rest, "://"):
		a, err = parseURL(rest)
	case strings.Contains(rest, "@"):
		err = &entryError{"", "must be host:port; a user and a password belong in {REDIS_USERNAME} and {REDIS_PASSWORD}, or in a URL, " + urlForm}
	default:
		a.hostPort, err = parseHostPort(entry, rest)
	}
	a.name = name
	return a, err
}

// withoutLogin returns an entry if it has no password for sure.
func withoutLogin(entry string) string {
	if strings.ContainsAny(entry, "@/") {
		return ""
	}
	return entry
}

func parseHostPort(entry, hostPort string) (string, *entryError) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return "", &entryError{entry, "must be host:port or name=host:port"}
	}
	return joinHostPort(entry, host, port)
}

// joinHostPort returns the one form of an address.
func joinHostPort(shown, host, port string) (string, *entryError) {
	if !validHost(host) {
		return "", &entryError{shown, "the host must be a name or an IP address"}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return "", &entryError{shown, "the port must be from 1 to 65535"}
	}
	return net.JoinHostPort(strings.ToLower(host), strconv.FormatUint(number, 10)), nil
}

const urlForm = "redis://user:password@host:port/database, or rediss:// for TLS"

// parseURL parses a URL. Its errors show the host alone.
func parseURL(text string) (address, *entryError) {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Scheme != schemePlain && u.Scheme != schemeTLS {
		return address{}, &entryError{"", "must be a URL as " + urlForm}
	}
	a := address{url: urlParts{scheme: u.Scheme, username: u.User.Username()}}
	password, _ := u.User.Password()
	a.url.password = secret.Secret(password)
	var wrong *entryError
	a.hostPort, wrong = joinHostPort(u.Host, u.Hostname(), cmp.Or(u.Port(), defaultPort))
	database, databaseErr := parseDatabase(u.Path)
	a.url.database = database
	switch {
	case wrong != nil:
	case databaseErr != nil:
		wrong = &entryError{u.Host, databaseErr.Error()}
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		wrong = &entryError{u.Host, "must end after the number of the database: options are settings of their own"}
	case a.url.username != "" && password == "":
		wrong = &entryError{u.Host, "has a user without a password"}
	}
	return a, wrong
}

// parseDatabase parses the path of a URL: the number of a database.
func parseDatabase(path string) (int, error) {
	digits := strings.TrimPrefix(path, "/")
	if digits == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n > maxDatabase {
		return 0, errors.New("the path must be the number of a database")
	}
	return n, nil
}

// validHost reports whether host can be a name or an address, so that typing errors are found at the start.
func validHost(host string) bool {
	const characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:%"
	return host != "" && len(host) <= 255 && strings.Trim(host, characters) == ""
}
