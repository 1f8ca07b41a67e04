// Package keyvalue finds the values in a request of which keys are made.
//
// A value that was sent twice is an error, because servers disagree about which of the two counts.
package keyvalue

import (
	"encoding/hex"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// Header is the header of a request, as an HTTP server holds it. Its strings must stay valid until the request is decided and,
// perhaps, refunded.
type Header interface {
	// Values returns the first value of a header field, whose name may be in any case, and the number of its lines.
	Values(name string) (first string, lines int)
	// Cookies returns the first cookie of a name, which is compared with its case, and the number of those.
	Cookies(name string) (first string, cookies int)
}

// Tokens verifies the tokens of requests.
type Tokens interface {
	// Claims returns the claims of the token that a request has, or nil if it has none that is believed.
	Claims(h Header) Claims
}

// Claims are those of one token that was verified. They are immutable.
type Claims interface {
	// Text returns a claim that is a text, a number as it is written, or a truth: else "". name is the claim's, or the names of an
	// object's claim and of members with dots between them; the first goes before the second.
	Text(name string) string
	// Elements returns the texts of a claim that is an array: else nil. The caller must not change them.
	Elements(name string) []string
}

// Finder finds the values of one request at a time. The zero value is ready for Reset. It is for one goroutine.
type Finder struct {
	// Lookup implements policy.Request.Lookup. Reset sets it, once: a method value for each request would be allocated.
	Lookup func(clientkey.Source) (string, error)
	// Elements implements policy.Request.Elements. Reset sets it, once.
	Elements func(clientkey.Source) []string
	// Tokens verifies the request's token when a claim is first looked up. Nil: no request has claims.
	Tokens Tokens

	claims   Claims
	verified bool // claims are those of this request

	header Header
	query  string
	// found holds the values that were looked up. A refund must find the same ones, even if a trailer was added to the
	// header since.
	found []foundValue
}

type foundValue struct {
	source clientkey.Source
	value  string
}

// Reset makes f find the values of another request. query is that of its target, as it was sent.
func (f *Finder) Reset(header Header, query string) {
	f.header, f.query, f.found = header, query, f.found[:0]
	f.claims, f.verified = nil, false
	if f.Lookup == nil {
		f.Lookup, f.Elements = f.lookup, f.elements
	}
}

// elements returns the elements of a claim that is an array.
func (f *Finder) elements(source clientkey.Source) []string {
	if source.Kind != clientkey.SourceClaim || f.verify() == nil {
		return nil
	}
	return f.claims.Elements(source.Name)
}

// verify returns the claims of the request's token, or nil. The token is verified once.
func (f *Finder) verify() Claims {
	if !f.verified && f.Tokens != nil {
		f.claims = f.Tokens.Claims(f.header)
	}
	f.verified = true
	return f.claims
}

func (f *Finder) lookup(source clientkey.Source) (string, error) {
	for i := range f.found {
		if f.found[i].source == source {
			return f.found[i].value, nil
		}
	}
	value, n := f.find(source)
	if n > 1 {
		return "", problem.Input(problem.ErrMalformed, source.Name, "must be sent once, since the decision depends on it")
	}
	f.found = append(f.found, foundValue{source, value})
	return value, nil
}

func (f *Finder) find(source clientkey.Source) (value string, n int) {
	switch source.Kind {
	case clientkey.SourceHeader:
		return f.header.Values(source.Name)
	case clientkey.SourceCookie:
		return f.header.Cookies(source.Name)
	case clientkey.SourceQuery:
		return queryValue(f.query, source.Name)
	case clientkey.SourceClaim:
		if claims := f.verify(); claims != nil {
			return claims.Text(source.Name), 1
		}
		return "", 0
	default:
		return "", 0
	}
}

// queryValue returns the first value of a query parameter, and the number of those.
func queryValue(query, name string) (value string, n int) {
	for more := query != ""; more; {
		var field string
		field, query, more = strings.Cut(query, "&")
		key, v, _ := strings.Cut(field, "=")
		if decoded(key) != name {
			continue
		}
		if n++; n == 1 {
			value = decoded(v)
		}
	}
	return value, n
}

// decoded decodes + and escapes. An incomplete escape stands for itself.
func decoded(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			c = ' '
		} else if c == '%' && i+2 < len(s) {
			if raw, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				c = raw[0]
				i += 2
			}
		}
		b = append(b, c)
	}
	return string(b)
}
