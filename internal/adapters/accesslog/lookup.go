package accesslog

import (
	"bytes"
	"errors"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// errSentTwice is the doors' refusal of a client's key that is there twice, since servers disagree about which counts.
var errSentTwice = errors.New("the client's key was sent twice")

// value answers domain.Request.Lookup.
func (e *entry) value(source domain.KeySource) (string, error) {
	var value []byte
	var err error
	switch source.Kind {
	case domain.SourceHeader:
		value, err = e.header([]byte(source.Name))
	case domain.SourceCookie:
		value, err = e.cookie(source.Name)
	case domain.SourceQuery:
		value, err = e.parameter(source.Name)
	default:
	}
	return text(value), err
}

// cookie is the value of a cookie, from a field of its own or from the header.
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

// parameter is the value of a parameter of the query.
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

// queryDecoded undoes the encoding of a form: + is a space, and a % that two hex digits do not follow is a %.
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
			hi, ok1 := hexDigit(b[i+1])
			lo, ok2 := hexDigit(b[i+2])
			if ok1 && ok2 {
				c, i = hi<<4|lo, i+2
			}
		}
		e.spare = append(e.spare, c)
	}
	return e.spare[from:len(e.spare):len(e.spare)]
}

// header is the value of a header, from a field of its own or from Caddy's object of all headers.
func (e *entry) header(name []byte) ([]byte, error) {
	for i := range e.headers {
		if bytes.EqualFold(e.headers[i].name, name) {
			return e.headers[i].value, nil
		}
	}
	if e.object == nil {
		return nil, nil
	}
	value, err := e.headerInObject(name)
	if errors.Is(err, errJSON) {
		return nil, nil // an object of another form has no headers
	}
	return value, err
}

// headerInObject looks into {"Name": ["value"], ...}.
func (e *entry) headerInObject(name []byte) ([]byte, error) {
	d := e.dec
	d.reset(e.object)
	if err := d.open('{'); err != nil {
		return nil, err
	}
	for d.more() {
		found, err := d.next()
		if err != nil {
			return nil, err
		}
		if bytes.EqualFold(e.unquoted(found), name) {
			return e.onlyValue()
		}
		if _, err := d.next(); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// onlyValue reads ["value"].
func (e *entry) onlyValue() ([]byte, error) {
	if err := e.dec.open('['); err != nil {
		return nil, err
	}
	if !e.dec.more() {
		return nil, nil
	}
	value, err := e.dec.next()
	if err != nil {
		return nil, err
	}
	if e.dec.more() {
		return nil, errSentTwice
	}
	return e.unquoted(value), nil
}
