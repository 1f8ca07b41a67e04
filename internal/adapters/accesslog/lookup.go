package accesslog

import (
	"bytes"
	"errors"
	"net/url"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// errSentTwice is the doors' refusal of a header that is a client's key.
var errSentTwice = errors.New("the header that is the client's key was sent twice")

// value answers domain.Request.Lookup.
func (e *entry) value(source domain.KeySource) (string, error) {
	switch source.Kind {
	case domain.SourceHeader:
		value, err := e.header([]byte(source.Name))
		return text(value), err
	case domain.SourceCookie:
		return text(e.cookie(source.Name)), nil
	case domain.SourceQuery:
		return e.parameter(source.Name), nil
	default:
		return "", nil
	}
}

// cookie is the value of a cookie, from a field of its own or from the header: the first of its name.
func (e *entry) cookie(name string) []byte {
	for i := range e.cookies {
		if text(e.cookies[i].name) == name {
			return e.cookies[i].value
		}
	}
	rest, err := e.header([]byte("cookie"))
	if err != nil {
		return nil
	}
	for len(rest) > 0 {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, []byte{';'})
		key, value, found := bytes.Cut(bytes.TrimSpace(pair), []byte{'='})
		if found && text(key) == name {
			return value
		}
	}
	return nil
}

// parameter is the value of a parameter of the query: the first of its name.
func (e *entry) parameter(name string) string {
	for rest := text(e.query); rest != ""; {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		key, value, _ := strings.Cut(pair, "=")
		if queryUnescaped(key) == name {
			return queryUnescaped(value)
		}
	}
	return ""
}

// queryUnescaped is s itself where its escapes are wrong.
func queryUnescaped(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
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
