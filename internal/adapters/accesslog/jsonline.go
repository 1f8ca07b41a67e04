package accesslog

import (
	"bytes"
	"cmp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// jsonDecoder is reused for every line. After an error it returns nothing more.
type jsonDecoder struct {
	dec    *jsontext.Decoder
	input  bytes.Buffer
	failed bool
}

// jsonOptions accept invalid UTF-8, which servers write.
var jsonOptions = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

func newJSONDecoder() *jsonDecoder {
	return &jsonDecoder{dec: jsontext.NewDecoder(new(bytes.Buffer), jsonOptions...)}
}

// reset starts a line. The decoder does not copy it, and the values that it returns point into it.
func (d *jsonDecoder) reset(line []byte) {
	d.input, d.failed = *bytes.NewBuffer(line), false
	d.dec.Reset(&d.input, jsonOptions...)
}

// token reads the brace or bracket that begins or ends an object or an array.
func (d *jsonDecoder) token(kind jsontext.Kind) {
	if !d.failed && d.dec.PeekKind() == kind {
		_, err := d.dec.ReadToken()
		d.failed = err != nil
	} else {
		d.failed = true
	}
}

// more reports whether a string comes next, which may be a name.
func (d *jsonDecoder) more() bool { return !d.failed && d.dec.PeekKind() == '"' }

// next returns the next value, encoded.
func (d *jsonDecoder) next() []byte {
	if d.failed {
		return nil
	}
	value, err := d.dec.ReadValue()
	d.failed = err != nil
	return value
}

// jsonFields holds the values of a line by their meaning. If several members have the same meaning, the rank decides.
type jsonFields [slots]struct {
	value []byte
	rank  uint8
}

// slot is the meaning of a field.
type slot uint8

const (
	slotTime slot = iota
	slotClient
	slotMethod
	slotRequest // the whole request line
	slotTarget
	slotQuery
	slotHost
	slotStatus
	slots
)

// meaning is what a member of an object stands for. Among the names of one slot, that with the highest rank wins.
type meaning struct {
	slot slot
	rank uint8
}

// meanings are those of Caddy's fields and nginx's variables.
var meanings = map[string]meaning{
	"ts": {slotTime, 6}, "msec": {slotTime, 5}, "time_iso8601": {slotTime, 4}, "time_local": {slotTime, 3},
	"@timestamp": {slotTime, 2}, "timestamp": {slotTime, 2}, "time": {slotTime, 1},
	"client_ip": {slotClient, 4}, "remote_addr": {slotClient, 3}, "remote_ip": {slotClient, 2}, "client": {slotClient, 1},
	"request": {slotRequest, 1}, "request_method": {slotMethod, 1}, "method": {slotMethod, 1},
	"request_uri": {slotTarget, 2}, "uri": {slotTarget, 1}, "args": {slotQuery, 1}, "query_string": {slotQuery, 1},
	"host": {slotHost, 3}, "http_host": {slotHost, 2}, "server_name": {slotHost, 1}, "status": {slotStatus, 1},
}

// parseJSON reads a line of Caddy, or of nginx with a log_format of escape=json.
func (e *entry) parseJSON(d *jsonDecoder, line []byte) error {
	var fields jsonFields
	d.reset(line)
	e.readFields(d, &fields, false)
	if d.failed || len(bytes.TrimSpace(line[d.dec.InputOffset():])) > 0 {
		return errJSON
	}
	return e.setFields(&fields)
}

// readFields reads the members of an object. Caddy puts the request into an object within that of the line.
func (e *entry) readFields(d *jsonDecoder, fields *jsonFields, within bool) {
	d.token('{')
	for d.more() {
		name := text(e.unquoted(d.next()))
		if !within && name == "request" && d.dec.PeekKind() == '{' {
			e.readFields(d, fields, true)
			continue
		}
		if value := d.next(); within && name == "headers" {
			e.object = value
		} else {
			e.keepField(fields, name, value)
		}
	}
	d.token('}')
}

// keepField keeps a member whose meaning is known. The values "-" and null stand for none.
func (e *entry) keepField(fields *jsonFields, name string, value []byte) {
	m, known := meanings[name]
	header, isHeader := strings.CutPrefix(name, "http_")
	cookie, isCookie := strings.CutPrefix(name, "cookie_")
	if !known && !isHeader && !isCookie {
		return
	}
	value = e.unquoted(value)
	if len(value) == 0 || text(value) == "-" || text(value) == "null" {
		return
	}
	if known && m.rank >= fields[m.slot].rank {
		fields[m.slot].value, fields[m.slot].rank = value, m.rank
	}
	switch {
	case isHeader:
		e.headers = append(e.headers, field{e.headerName(header), value})
	case isCookie:
		e.cookies = append(e.cookies, field{[]byte(cookie), value})
	}
}

// headerName returns the name of the header that a variable of nginx holds.
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

// unquoted decodes a JSON string. It returns any other value unchanged.
func (e *entry) unquoted(value []byte) []byte {
	if len(value) < 2 || value[0] != '"' {
		return value
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1]
	}
	from := len(e.spare)
	e.spare, _ = jsontext.AppendUnquote(e.spare, value) // it reports invalid UTF-8 as an error, but appends it
	return e.spare[from:len(e.spare):len(e.spare)]
}

// setFields sets the request from the fields.
func (e *entry) setFields(fields *jsonFields) error {
	if fields[slotTime].value == nil {
		return errNoTime
	}
	var ok bool
	if e.At, ok = parseTime(fields[slotTime].value); !ok {
		return errTime
	}
	if err := cmp.Or(e.setClient(fields[slotClient].value), e.setRequestFields(fields)); err != nil {
		return err
	}
	e.Request.Host = text(fields[slotHost].value)
	if fields[slotStatus].value == nil {
		return nil
	}
	return e.setStatus(fields[slotStatus].value)
}

// setRequestFields sets method and target from fields of their own, else from the request line.
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
