package accesslog

import (
	"bytes"
	"errors"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// errSentTwice refuses a client's key that was sent twice, as the service does: servers disagree about which one counts.
var errSentTwice = errors.New("the client's key was sent twice")

// value implements policy.Request.Lookup.
func (e *entry) value(source clientkey.Source) (string, error) {
	var value []byte
	var err error
	switch source.Kind {
	case clientkey.SourceHeader:
		value, err = e.header([]byte(source.Name))
	case clientkey.SourceCookie:
		value, err = e.cookie(source.Name)
	case clientkey.SourceQuery:
		value, err = e.parameter(source.Name)
	default:
	}
	return text(value), err
}

// cookie returns the value of a cookie, from a field of its own or from the header.
func (e *entry) cookie(name string) (found []byte, err error) {
	for i := range e.cookies {
		if text(e.cookies[i].name) == name {
			return e.cookies[i].value, nil
		}
	}
	rest, err := e.header([]byte("cookie"))
	for n := 0; len(rest) > 0; {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, []byte{';'})
		key, value, _ := bytes.Cut(bytes.TrimSpace(pair), []byte{'='})
		if text(key) != name {
			continue
		}
		if n++; n > 1 {
			return nil, errSentTwice
		}
		found = value
		if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
			found = value[1 : len(value)-1]
		}
	}
	return found, err
}

// parameter returns the value of a parameter of the query.
func (e *entry) parameter(name string) (found []byte, err error) {
	for n, rest := 0, e.query; len(rest) > 0; {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, []byte{'&'})
		key, value, _ := bytes.Cut(pair, []byte{'='})
		if text(e.queryDecoded(key)) != name {
			continue
		}
		if n++; n > 1 {
			return nil, errSentTwice
		}
		found = e.queryDecoded(value)
	}
	return found, nil
}

// queryDecoded decodes a form value: + is a space, and a % without two hex digits stands for itself.
func (e *entry) queryDecoded(b []byte) []byte {
	if bytes.IndexByte(b, '%') < 0 && bytes.IndexByte(b, '+') < 0 {
		return b
	}
	from := len(e.spare)
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c == '+' {
			c = ' '
		}
		if c == '%' && i+2 < len(b) {
			if decoded, ok := hexByte(b[i+1:]); ok {
				c, i = decoded, i+2
			}
		}
		e.spare = append(e.spare, c)
	}
	return e.spare[from:len(e.spare):len(e.spare)]
}

// header returns the value of a header, from a field of its own or from Caddy's object of all headers.
func (e *entry) header(name []byte) ([]byte, error) {
	for i := range e.headers {
		if bytes.EqualFold(e.headers[i].name, name) {
			return e.headers[i].value, nil
		}
	}
	if e.object == nil {
		return nil, nil
	}
	return e.headerInObject(name)
}

// headerInObject looks a header up in {"Name": ["value"], ...}, and refuses more than one value. An object of another form has
// no headers.
func (e *entry) headerInObject(name []byte) ([]byte, error) {
	d := e.dec
	d.reset(e.object)
	d.token('{')
	for d.more() {
		if !bytes.EqualFold(e.unquoted(d.next()), name) {
			d.next()
			continue
		}
		d.token('[')
		if !d.more() {
			return nil, nil
		}
		value := d.next()
		if d.more() {
			return nil, errSentTwice
		}
		return e.unquoted(value), nil
	}
	return nil, nil
}
