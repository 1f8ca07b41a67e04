// Package clientkey turns the client of a request into the key of its buckets.
package clientkey

import (
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// SourceKind is the part of a request from which a key takes its value.
type SourceKind uint8

// The kinds of source.
const (
	SourceIP         SourceKind = iota // the client's address; IPv6 is cut to its /64
	SourceHeader                       // a request header
	SourceIP48                         // the client's address; IPv6 is cut to its /48
	SourceCookie                       // a cookie
	SourceQuery                        // a parameter of the query, percent-decoded
	SourceGlobal                       // one bucket for all clients; the value is always empty
	SourceDescriptor                   // the entries of an Envoy descriptor; see policy.Match
	SourceClaim                        // a claim of the request's verified token (JWT)
)

// Source is one part of a policy's key. The zero value is the client's address.
type Source struct {
	Kind SourceKind
	// Name of the header, in lower case; of the cookie or of the query's parameter, as it is. Else empty.
	Name string
	// Hasher replaces the values where they would leave the process: a header, a cookie, a query parameter or a claim that is a
	// secret. Nil: the values are no secrets.
	Hasher *Hasher
}

// sourceWords are the names of the kinds in a policy file and in the key of a bucket.
var sourceWords = map[SourceKind]struct{ file, key string }{
	SourceIP: {"ip", "ip"}, SourceIP48: {"ip/48", "ip/48"}, SourceGlobal: {"global", "g"},
	SourceDescriptor: {"descriptor", "d"},
	SourceHeader:     {"header:", "h:"}, SourceCookie: {"cookie:", "c:"}, SourceQuery: {"query:", "q:"},
	SourceClaim: {"claim:", "j:"},
}

// ParseSource reads "ip", "ip/48", "header:NAME", "cookie:NAME", "query:NAME", "claim:NAME", "global"
// or "descriptor".
func ParseSource(s string) (Source, error) {
	for kind, words := range sourceWords {
		name, found := strings.CutPrefix(s, words.file)
		if !found {
			continue
		}
		if kind == SourceHeader {
			name = strings.ToLower(name)
		}
		if source := (Source{Kind: kind, Name: name}); source.Valid() {
			return source, nil
		}
	}
	return Source{}, invalidKey(strconv.Quote(s), keyRule)
}

const secretRule = "cannot be secret: only header:NAME, cookie:NAME, query:NAME and claim:NAME can"

const keyRule = "must be ip, ip/48, global, header:NAME, cookie:NAME, query:NAME or claim:NAME; a header's name has letters, " +
	"digits and hyphens, the others' may have . _ ~ [ ] too, a claim's also : / @"

// Valid reports whether [ParseSource] could have returned s. The name of such a source contains no separator.
func (s Source) Valid() bool {
	if s.Secret() && !s.Kind.canBeSecret() {
		return false
	}
	switch s.Kind {
	case SourceIP, SourceIP48, SourceGlobal, SourceDescriptor:
		return s.Name == ""
	case SourceHeader:
		// Fewer than the token of RFC 9110. An upstream may read X_Tenant as X-Tenant, so a name with an underscore could
		// mean another header.
		return validName(s.Name, "-") && s.Name == strings.ToLower(s.Name)
	case SourceCookie, SourceQuery:
		return validName(s.Name, "-._~[]")
	case SourceClaim: // often a URL
		return validName(s.Name, "-._~[]:/@")
	default:
		return false
	}
}

// canBeSecret reports whether a client sends values of the kind, and may keep them to itself.
func (k SourceKind) canBeSecret() bool {
	return k == SourceHeader || k == SourceCookie || k == SourceQuery || k == SourceClaim
}

// IsAddress reports whether the value is the client's address.
func (s Source) IsAddress() bool { return s.Kind == SourceIP || s.Kind == SourceIP48 }

// validName accepts letters, digits and the given punctuation.
func validName(s, punctuation string) bool {
	const letters, digits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
	return s != "" && len(s) <= maxSourceName && strings.Trim(s, letters+digits+punctuation) == ""
}

const maxSourceName = 128

// String is the form that [ParseSource] reads.
func (s Source) String() string { return sourceWords[s.Kind].file + s.Name }

// Key identifies a client: by the values of its sources, together. The zero value is the client's address. A Key
// must not be changed once it is in use.
type Key []Source

// MaxParts is the most sources that one key can have.
const MaxParts = 4

// byAddress are the sources of the zero Key.
var byAddress = Key{{Kind: SourceIP}}

// Parse reads a list of sources separated by commas, as [Key.String] writes it.
func Parse(s string) (Key, error) {
	var key Key
	for part := range strings.SplitSeq(s, ",") {
		source, err := ParseSource(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		key = append(key, source)
	}
	if err := key.Check(); err != nil { // not returned as it is: a nil *FieldError is an error that is not nil
		return nil, err
	}
	return key, nil
}

// Sources returns the sources of the key: at least one.
func (k Key) Sources() []Source {
	if len(k) == 0 {
		return byAddress
	}
	return k
}

// AddressSource returns the source of a key whose values are addresses. It reports false for any other key.
func (k Key) AddressSource() (source Source, ok bool) {
	sources := k.Sources()
	return sources[0], len(sources) == 1 && sources[0].IsAddress()
}

// Equal reports whether both keys have the same sources in the same order. It does not compare which are secret: of one policy's
// keys, a source is secret in all or in none.
func (k Key) Equal(other Key) bool {
	return slices.EqualFunc(k.Sources(), other.Sources(), Source.Same)
}

// String is the form that [Parse] reads: "ip, header:x-tenant".
func (k Key) String() string {
	var list []string
	for _, source := range k.Sources() {
		list = append(list, source.String())
	}
	return strings.Join(list, ", ")
}

// Check refuses a key that has a source twice, or that has another source beside global or descriptor.
func (k Key) Check() *domain.FieldError {
	bad := func(reason string) *domain.FieldError {
		return invalidKey(strconv.Quote(k.String()), reason)
	}
	if len(k) > MaxParts {
		return bad("has more than " + strconv.Itoa(MaxParts) + " parts")
	}
	for i, source := range k {
		switch {
		case source.Secret() && !source.Kind.canBeSecret():
			return bad(secretRule)
		case !source.Valid():
			return bad(keyRule)
		case slices.ContainsFunc(k[:i], source.Same):
			return bad("has " + source.String() + " twice")
		case len(k) > 1 && (source.Kind == SourceGlobal || source.Kind == SourceDescriptor):
			return bad(source.String() + " must stand alone")
		}
	}
	return nil
}

func invalidKey(value, reason string) *domain.FieldError {
	return &domain.FieldError{Kind: domain.ErrInvalidPolicy, Field: "key", Value: value, Reason: reason}
}
