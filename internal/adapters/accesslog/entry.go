package accesslog

import (
	"bytes"
	"errors"
	"net/netip"
	"unsafe"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// The reasons why a line is not a request. They are variables because a log may have millions of such lines.
var (
	errTooLong   = errors.New("the line is longer than 256 KiB")
	errEmpty     = errors.New("the line is empty")
	errJSON      = errors.New("the line is no JSON object")
	errNoTime    = errors.New("there is no time")
	errTime      = errors.New("the time is of no known form")
	errNoRequest = errors.New("there is no request")
	errRequest   = errors.New("the request has no method and path")
	errNoStatus  = errors.New("the status is no number from 100 to 999")
	errClient    = errors.New("the client is no address")
)

// entry is a line of a log. It owns the memory of all its strings, and reuses it for a later line.
type entry struct {
	ports.LoggedRequest
	// line is a copy of the line. The strings of the request point into it, or into spare if they had escapes.
	line, spare []byte

	// target is the target of the request. It includes the query, unless query is set.
	target, query []byte
	// headers and cookies are those with a field of their own in the line.
	headers, cookies []field
	// object is Caddy's JSON object of headers. It is parsed only when a header is looked up.
	object []byte
	dec    *jsonDecoder                           // for object
	lookup func(clientkey.Source) (string, error) // e.value, kept because each method value is an allocation
}

// field is a header or a cookie of the request.
type field struct{ name, value []byte }

// reset copies a line into e, unparsed.
func (e *entry) reset(log string, number int, line []byte) {
	e.line = append(e.line[:0], line...)
	e.spare, e.headers, e.cookies = e.spare[:0], e.headers[:0], e.cookies[:0]
	e.target, e.query, e.object = nil, nil, nil
	e.LoggedRequest = ports.LoggedRequest{Log: log, Line: number}
	e.Request.PolicyCost, e.Request.Trusted = true, true
	e.Request.Lookup = e.lookup
}

// bytes returns roughly how much memory the entry holds.
func (e *entry) bytes() int { return cap(e.line) + cap(e.spare) + int(unsafe.Sizeof(*e)) }

// setMethod sets the method. HEAD becomes GET, as in the service.
func (e *entry) setMethod(method []byte) error {
	if len(method) == 0 {
		return errRequest
	}
	for _, c := range method {
		if (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '-' && c != '_' {
			return errRequest
		}
	}
	e.Request.Method = text(method)
	return nil
}

func (e *entry) setStatus(b []byte) error {
	status := digits(b)
	if len(b) != 3 || status < 100 {
		return errNoStatus
	}
	e.Status = status
	return nil
}

// setClient parses an address, with or without a port.
func (e *entry) setClient(b []byte) error {
	s := text(b)
	addr, err := netip.ParseAddr(s)
	if err != nil {
		pair, err := netip.ParseAddrPort(s)
		if err != nil {
			return errClient
		}
		addr = pair.Addr()
	}
	e.Request.Client = addr
	return nil
}

// addHeader adds a header, unless the value is empty or "-", which stand for none.
func (e *entry) addHeader(name, value []byte) {
	if len(value) == 0 || len(value) == 1 && value[0] == '-' {
		return
	}
	e.headers = append(e.headers, field{name, value})
}

// setTarget splits the target into host, path and query, and normalises the path.
func (e *entry) setTarget(normal func(string) (string, error)) error {
	target := e.target
	if scheme := bytes.Index(target, []byte("://")); scheme > 0 && target[0] != '/' {
		// The target of a request to a proxy is a whole URL.
		authority := target[scheme+3:]
		target = nil
		if slash := bytes.IndexAny(authority, "/?"); slash >= 0 {
			authority, target = authority[:slash], authority[slash:]
		}
		e.Request.Host = text(authority)
	}
	path, query, _ := bytes.Cut(target, []byte{'?'})
	if e.query == nil {
		e.query = query
	}
	var err error
	e.Request.Path, err = normal(text(path))
	return err
}

// text returns b as a string that shares its memory.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// digits returns the decimal number b; -1 if b is not one.
func digits(b []byte) int {
	n := 0
	for _, c := range b {
		if !isDigit(c) {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
