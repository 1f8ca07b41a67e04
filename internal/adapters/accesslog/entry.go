package accesslog

import (
	"bytes"
	"errors"
	"net/netip"
	"unsafe"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// What keeps a line from being a request. Values, since a log may hold millions of such lines.
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

// entry is a line that was read. It owns the memory of all its strings, which is used again for a later line.
type entry struct {
	ports.LoggedRequest
	// line is a copy of the line; the strings of the request lie in it, or in spare where they had escapes.
	line, spare []byte

	// target is what was asked for, the query not cut off yet unless it is in query.
	target, query []byte
	// headers and cookies are those that the line has a field of its own for.
	headers, cookies []field
	// object is Caddy's JSON object of headers, which is looked into only if somebody asks.
	object []byte
	dec    *jsonDecoder                           // for object
	lookup func(domain.KeySource) (string, error) // the method value is an allocation of its own
}

// field is a header or a cookie of the request.
type field struct{ name, value []byte }

func newEntry() *entry {
	e := new(entry)
	e.lookup = e.value
	return e
}

// reset makes e a copy of a line, with nothing read from it yet.
func (e *entry) reset(log string, number int, line []byte) {
	e.line = append(e.line[:0], line...)
	e.spare, e.headers, e.cookies = e.spare[:0], e.headers[:0], e.cookies[:0]
	e.target, e.query, e.object = nil, nil, nil
	e.LoggedRequest = ports.LoggedRequest{Log: log, Line: number}
	e.Request.PolicyCost, e.Request.Trusted = true, true
	e.Request.Lookup = e.lookup
}

// bytes is about how much memory the entry holds.
func (e *entry) bytes() int { return cap(e.line) + cap(e.spare) + int(unsafe.Sizeof(*e)) }

// parse reads the line.
func (e *entry) parse(d *jsonDecoder) error {
	line := bytes.TrimSpace(e.line)
	if len(line) == 0 {
		return errEmpty
	}
	if line[0] == '{' {
		return e.parseJSON(d, line)
	}
	return e.parseCommon(line)
}

// setRequestLine takes "GET /path HTTP/1.1" apart. What was sent to a wrong port, say, is no such line.
func (e *entry) setRequestLine(line []byte) error {
	method, target := word(line)
	target = bytes.Trim(target, " ")
	if protocol := bytes.LastIndexByte(target, ' '); protocol >= 0 && bytes.HasPrefix(target[protocol+1:], []byte("HTTP/")) {
		target = target[:protocol]
	}
	if len(target) == 0 {
		return errRequest
	}
	e.target = target
	return e.setMethod(method)
}

// setMethod takes HEAD for GET, as the doors do.
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
	if e.Request.Method == "HEAD" {
		e.Request.Method = "GET"
	}
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

// setClient takes an address, perhaps with a port.
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

func (e *entry) setHost(b []byte) { e.Request.Host = text(b) }

// addHeader keeps a header's value, unless the log shows that there was none.
func (e *entry) addHeader(name, value []byte) {
	if len(value) == 0 || len(value) == 1 && value[0] == '-' {
		return
	}
	e.headers = append(e.headers, field{name, value})
}

// setTarget cuts the target into host, path and query, and brings the path into its normal form.
func (e *entry) setTarget(normal func(string) (string, error)) error {
	target := e.target
	if scheme := bytes.Index(target, []byte("://")); scheme > 0 && target[0] != '/' {
		// A proxy is asked for a whole URL.
		authority := target[scheme+3:]
		target = nil
		if slash := bytes.IndexAny(authority, "/?"); slash >= 0 {
			authority, target = authority[:slash], authority[slash:]
		}
		e.setHost(authority)
	}
	path, query, _ := bytes.Cut(target, []byte{'?'})
	if e.query == nil {
		e.query = query
	}
	var err error
	e.Request.Path, err = normal(text(path))
	return err
}

// text is b as a string, in the same memory.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
