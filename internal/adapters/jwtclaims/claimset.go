package jwtclaims

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/web/keyvalue"
)

// maxDepth is how deep the claims of a token may nest.
const maxDepth = 16

// maxDate is the last second of the year 9999. A date after it is no date; a common mistake is to write milliseconds.
const maxDate = 253402300799

var (
	errNotObject = errors.New("is no JSON object")
	errTooDeep   = errors.New("nests too deep")
	errDate      = errors.New("must be a number of seconds since 1970")
)

// claimSet holds the claims of one token. Its zero value has none. After UnmarshalJSON it is immutable.
type claimSet struct {
	// claims are sorted by their names.
	claims []claim
	bytes  int  // of their memory, about
	parsed bool // UnmarshalJSON was called
	// The claims that the library looks at, as JSON; nil if there is none.
	exp, nbf, iat, iss, sub, aud jsontext.Value
}

var (
	_ jwt.Claims      = (*claimSet)(nil)
	_ keyvalue.Claims = (*claimSet)(nil)
)

// claim is a claim that is a text, a number or a truth, or an array of such.
type claim struct {
	name     string // with dots between the names of objects and members
	depth    int    // the number of those names
	text     string // empty for an array
	elements []string
}

// Text implements keyvalue.Claims.
func (s *claimSet) Text(name string) string {
	if c := s.find(name); c != nil {
		return c.text
	}
	return ""
}

// Elements implements keyvalue.Claims.
func (s *claimSet) Elements(name string) []string {
	if c := s.find(name); c != nil {
		return c.elements
	}
	return nil
}

func (s *claimSet) find(name string) *claim {
	i, found := slices.BinarySearchFunc(s.claims, name, func(c claim, name string) int { return strings.Compare(c.name, name) })
	if !found {
		return nil
	}
	return &s.claims[i]
}

// UnmarshalJSON reads the claims. A member that is repeated in its object is an error, as is text that is not UTF-8. Where several
// claims have the same name with dots, the one with fewer objects around it counts, and else the first.
func (s *claimSet) UnmarshalJSON(data []byte) error {
	*s = claimSet{parsed: true}
	if err := s.object(data, "", 1); err != nil {
		return err
	}
	slices.SortStableFunc(s.claims, func(a, b claim) int { return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.depth, b.depth)) })
	s.claims = slices.Clip(slices.CompactFunc(s.claims, func(a, b claim) bool { return a.name == b.name }))
	for _, c := range s.claims {
		s.bytes += len(c.name) + len(c.text) + claimBytes
		for _, e := range c.elements {
			s.bytes += len(e) + textBytes
		}
	}
	return nil
}

// Memory of a claim and of an element, beside their texts.
const (
	claimBytes = 96
	textBytes  = 16
)

// object reads an object, whose members' names follow prefix.
func (s *claimSet) object(value jsontext.Value, prefix string, depth int) error {
	if depth > maxDepth {
		return errTooDeep
	}
	return eachMember(value, func(name string, value jsontext.Value) error {
		if depth == 1 {
			s.capture(name, value)
		}
		name = prefix + name
		switch value.Kind() {
		case '{':
			return s.object(value, name+".", depth+1)
		case '[':
			return s.array(value, name, depth)
		default:
			text, err := scalar(value)
			if text != "" {
				s.add(claim{name: name, depth: depth, text: text})
			}
			return err
		}
	})
}

// array reads an array. What is no scalar in it is not kept.
func (s *claimSet) array(value jsontext.Value, name string, depth int) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(value))
	_, err := d.ReadToken()
	var elements []string
	for err == nil && d.PeekKind() != ']' {
		if value, err = d.ReadValue(); err != nil || value.Kind() == '{' || value.Kind() == '[' {
			continue
		}
		var text string
		if text, err = scalar(value); text != "" {
			elements = append(elements, text)
		}
	}
	if len(elements) > 0 {
		s.add(claim{name: name, depth: depth, elements: elements})
	}
	return err
}

// add keeps a claim that a policy can name.
func (s *claimSet) add(c claim) {
	if (clientkey.Source{Kind: clientkey.SourceClaim, Name: c.name}).Valid() {
		s.claims = append(s.claims, c)
	}
}

// eachMember calls next with each member of an object, and returns its first error. A repeated member is an error, as is what
// follows the object. The value is valid during the call alone.
func eachMember(object jsontext.Value, next func(name string, value jsontext.Value) error) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(object))
	if d.PeekKind() != '{' {
		return errNotObject
	}
	_, err := d.ReadToken()
	for err == nil && d.PeekKind() == '"' {
		var name jsontext.Token
		if name, err = d.ReadToken(); err != nil {
			break
		}
		member := name.String()
		var value jsontext.Value
		if value, err = d.ReadValue(); err == nil {
			err = next(member, value)
		}
	}
	if err == nil {
		_, err = d.ReadToken() // the end of the object, or what is no JSON
	}
	if err != nil {
		return err
	}
	if _, err = d.ReadToken(); !errors.Is(err, io.EOF) {
		return errNotObject
	}
	return nil
}

// scalar returns a text, a truth, or a number as it is written. Nothing (null) is empty.
func scalar(value jsontext.Value) (string, error) {
	switch value.Kind() {
	case '"':
		text, err := jsontext.AppendUnquote(nil, value)
		return string(text), err
	case 'n':
		return "", nil
	default:
		return string(value), nil
	}
}

// capture keeps the claims that the library looks at.
func (s *claimSet) capture(name string, value jsontext.Value) {
	for _, known := range []struct {
		name string
		into *jsontext.Value
	}{{"exp", &s.exp}, {"nbf", &s.nbf}, {"iat", &s.iat}, {"iss", &s.iss}, {"sub", &s.sub}, {"aud", &s.aud}} {
		if known.name == name {
			*known.into = bytes.Clone(value)
		}
	}
}

// GetExpirationTime implements jwt.Claims.
func (s *claimSet) GetExpirationTime() (*jwt.NumericDate, error) { return date(s.exp) }

// GetNotBefore implements jwt.Claims.
func (s *claimSet) GetNotBefore() (*jwt.NumericDate, error) { return date(s.nbf) }

// GetIssuedAt implements jwt.Claims.
func (s *claimSet) GetIssuedAt() (*jwt.NumericDate, error) { return date(s.iat) }

// GetIssuer implements jwt.Claims.
func (s *claimSet) GetIssuer() (string, error) { return text(s.iss) }

// GetSubject implements jwt.Claims.
func (s *claimSet) GetSubject() (string, error) { return text(s.sub) }

// GetAudience implements jwt.Claims.
func (s *claimSet) GetAudience() (jwt.ClaimStrings, error) {
	var all jwt.ClaimStrings
	if s.aud == nil {
		return nil, nil
	}
	err := all.UnmarshalJSON(s.aud)
	return all, err
}

// text reads a claim that must be a text.
func text(value jsontext.Value) (string, error) {
	if value == nil {
		return "", nil
	}
	if value.Kind() != '"' {
		return "", jwt.ErrInvalidType
	}
	unquoted, err := jsontext.AppendUnquote(nil, value)
	return string(unquoted), err
}

// date reads a date, which must be a number (RFC 7519, section 2).
func date(value jsontext.Value) (*jwt.NumericDate, error) {
	if value == nil {
		return nil, nil
	}
	seconds, err := strconv.ParseFloat(string(value), 64)
	if err != nil || seconds < 0 || seconds > maxDate {
		return nil, errDate
	}
	whole, part := math.Modf(seconds)
	return &jwt.NumericDate{Time: time.Unix(int64(whole), int64(part*float64(time.Second)))}, nil
}
