package accesslog

import (
	"bytes"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// jsonDecoder is used again for every line.
type jsonDecoder struct {
	dec   *jsontext.Decoder
	input bytes.Buffer
}

// jsonOptions let bytes pass that are no UTF-8, since servers do.
var jsonOptions = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

func newJSONDecoder() *jsonDecoder {
	return &jsonDecoder{dec: jsontext.NewDecoder(new(bytes.Buffer), jsonOptions...)}
}

// reset begins with one line. The decoder reads it where it lies, and so do the values that it returns.
func (d *jsonDecoder) reset(line []byte) {
	d.input = *bytes.NewBuffer(line)
	d.dec.Reset(&d.input, jsonOptions...)
}

// open reads the brace or bracket that begins an object or an array.
func (d *jsonDecoder) open(kind jsontext.Kind) error {
	if d.dec.PeekKind() != kind {
		return errJSON
	}
	return d.close()
}

// close reads what ends an object or an array.
func (d *jsonDecoder) close() error {
	if _, err := d.dec.ReadToken(); err != nil {
		return errJSON
	}
	return nil
}

// more reports whether a name, or another text, comes next.
func (d *jsonDecoder) more() bool { return d.dec.PeekKind() == '"' }

// next is the value that comes next, as it is written.
func (d *jsonDecoder) next() ([]byte, error) {
	v, err := d.dec.ReadValue()
	if err != nil {
		return nil, errJSON
	}
	return v, nil
}

// jsonFields are the values of a line that mean something, each of the best name that the line has for it.
type jsonFields [slots]struct {
	value []byte
	rank  uint8
}

// slot is what a field means.
type slot uint8

const (
	slotNone slot = iota
	slotTime
	slotClient
	slotMethod
	slotRequest // the whole request line
	slotTarget
	slotQuery
	slotHost
	slotStatus
	slots
)

// meaning maps the names that Caddy and nginx's variables have to what they mean. Where several mean the same, the one
// with the higher rank counts.
func meaning(name string) (s slot, rank uint8) {
	switch name {
	case "ts":
		return slotTime, 6
	case "msec":
		return slotTime, 5
	case "time_iso8601":
		return slotTime, 4
	case "time_local":
		return slotTime, 3
	case "@timestamp", "timestamp":
		return slotTime, 2
	case "time":
		return slotTime, 1
	case "client_ip":
		return slotClient, 4
	case "remote_addr":
		return slotClient, 3
	case "remote_ip":
		return slotClient, 2
	case "client":
		return slotClient, 1
	case "request":
		return slotRequest, 1
	case "request_method", "method":
		return slotMethod, 1
	case "request_uri":
		return slotTarget, 2
	case "uri":
		return slotTarget, 1
	case "args", "query_string":
		return slotQuery, 1
	case "host":
		return slotHost, 3
	case "http_host":
		return slotHost, 2
	case "server_name":
		return slotHost, 1
	case "status":
		return slotStatus, 1
	}
	return slotNone, 0
}

// parseJSON reads a line of Caddy, or of nginx with a log_format of escape=json.
func (e *entry) parseJSON(d *jsonDecoder, line []byte) error {
	var fields jsonFields
	d.reset(line)
	if err := e.readFields(d, &fields, false); err != nil {
		return err
	}
	if len(bytes.TrimSpace(line[d.dec.InputOffset():])) > 0 {
		return errJSON
	}
	return e.setFields(&fields)
}

// readFields reads the members of an object. Caddy has the request in an object of its own, within the line's.
func (e *entry) readFields(d *jsonDecoder, fields *jsonFields, within bool) error {
	if err := d.open('{'); err != nil {
		return err
	}
	for d.more() {
		raw, err := d.next()
		if err != nil {
			return err
		}
		name := text(e.unquoted(raw))
		if !within && name == "request" && d.dec.PeekKind() == '{' {
			if err := e.readFields(d, fields, true); err != nil {
				return err
			}
			continue
		}
		value, err := d.next()
		switch {
		case err != nil:
			return err
		case within && name == "headers":
			e.object = value
		default:
			e.keepField(fields, name, value)
		}
	}
	return d.close()
}

// keepField keeps a member that means something. "-" and null say that there is nothing.
func (e *entry) keepField(fields *jsonFields, name string, value []byte) {
	s, rank := meaning(name)
	isHeader := strings.HasPrefix(name, "http_")
	isCookie := strings.HasPrefix(name, "cookie_")
	if s == slotNone && !isHeader && !isCookie {
		return
	}
	value = e.unquoted(value)
	if len(value) == 0 || text(value) == "-" || text(value) == "null" {
		return
	}
	if s != slotNone && rank >= fields[s].rank {
		fields[s].value, fields[s].rank = value, rank
	}
	switch {
	case isHeader:
		e.headers = append(e.headers, field{e.headerName(name[len("http_"):]), value})
	case isCookie:
		e.cookies = append(e.cookies, field{[]byte(name[len("cookie_"):]), value})
	}
}

// headerName is the header that a variable of nginx stands for.
func (e *entry) headerName(variable string) []byte {
	from := len(e.spare)
	for i := range len(variable) {
		c := variable[i]
		if c == '_' {
			c = '-'
		}
		e.spare = append(e.spare, c)
	}
	return e.spare[from:len(e.spare):len(e.spare)]
}

// unquoted is what a JSON string says; another value as it is written.
func (e *entry) unquoted(value []byte) []byte {
	if len(value) < 2 || value[0] != '"' {
		return value
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1]
	}
	from := len(e.spare)
	e.spare, _ = jsontext.AppendUnquote(e.spare, value) // fails for what is no UTF-8, and that has been let pass
	return e.spare[from:len(e.spare):len(e.spare)]
}

// setFields makes the request of the fields.
func (e *entry) setFields(fields *jsonFields) error {
	if fields[slotTime].value == nil {
		return errNoTime
	}
	var ok bool
	if e.At, ok = parseTime(fields[slotTime].value); !ok {
		return errTime
	}
	if err := e.setClient(fields[slotClient].value); err != nil {
		return err
	}
	if err := e.setRequestFields(fields); err != nil {
		return err
	}
	e.setHost(fields[slotHost].value)
	if fields[slotStatus].value == nil {
		return nil
	}
	return e.setStatus(fields[slotStatus].value)
}

// setRequestFields takes method and target from fields of their own, or else from the request line.
func (e *entry) setRequestFields(fields *jsonFields) error {
	method, target, line := fields[slotMethod].value, fields[slotTarget].value, fields[slotRequest].value
	switch {
	case method != nil && target != nil:
		e.target, e.query = target, fields[slotQuery].value
		return e.setMethod(method)
	case line != nil:
		return e.setRequestLine(line)
	default:
		return errNoRequest
	}
}
