package httpfiber

import (
	"bytes"
	"strings"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// visit is the memory of one request, used again by later ones: it is made of slices, and asked by DecideMany, for that
// reason alone.
type visit struct {
	req    [1]domain.Request
	answer [1]ports.Answer
	from   *fasthttp.RequestHeader
	query  string
	lookup func(domain.KeySource) (string, error) // the method value is an allocation of its own

	args   fasthttp.Args // of query, once something has asked for one
	parsed bool
	// found is what was looked up: a refund must find the same, though the header may have grown by a trailer.
	found []foundValue
}

type foundValue struct {
	source domain.KeySource
	value  string
}

func newVisit() *visit {
	v := new(visit)
	v.lookup = v.value
	return v
}

func (m *middleware) leave(v *visit) {
	v.req[0], v.answer[0], v.from, v.query = domain.Request{}, emptied(v.answer[0]), nil, ""
	v.parsed, v.found = false, v.found[:0]
	m.visits.Put(v)
}

// value answers domain.Request.Lookup, with memory that fasthttp uses again for the next request of the connection.
func (v *visit) value(source domain.KeySource) (string, error) {
	for i := range v.found {
		if v.found[i].source == source {
			return v.found[i].value, nil
		}
	}
	value, err := v.find(source)
	if err == nil {
		v.found = append(v.found, foundValue{source, value})
	}
	return value, err
}

// find refuses what is there twice: servers disagree about which of the two counts.
func (v *visit) find(source domain.KeySource) (string, error) {
	var n int
	var value []byte
	switch source.Kind {
	case domain.SourceHeader:
		values := v.from.PeekAll(source.Name)
		if n = len(values); n == 1 && storedOnce(source.Name) && sentTwice(v.from.RawHeaders(), source.Name) {
			n = 2
		}
		if n > 0 {
			value = values[0]
		}
	case domain.SourceCookie:
		for name, cookie := range v.from.Cookies() {
			if string(name) == source.Name {
				n, value = n+1, cookie
			}
		}
	case domain.SourceQuery:
		if !v.parsed {
			v.args.Parse(v.query)
			v.parsed = true
		}
		values := v.args.PeekMulti(source.Name)
		if n = len(values); n > 0 {
			value = values[0]
		}
	default:
		return "", nil
	}
	if n > 1 {
		return "", &inputError{errMalformed, source.Name, "must be sent once, since the decision depends on it"}
	}
	return utils.UnsafeString(value), nil
}

// storedOnce names the headers of which fasthttp keeps the last line only.
func storedOnce(name string) bool {
	return strings.EqualFold(name, fasthttp.HeaderUserAgent) || strings.EqualFold(name, fasthttp.HeaderContentType)
}

func sentTwice(raw []byte, name string) bool {
	n := 0
	for line := range bytes.Lines(raw) {
		if len(line) > len(name) && line[len(name)] == ':' &&
			strings.EqualFold(utils.UnsafeString(line[:len(name)]), name) {
			n++
		}
	}
	return n > 1
}
