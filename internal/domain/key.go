package domain

import (
	"slices"
	"strconv"
	"strings"
)

// SourceKind says where the value of a key comes from.
type SourceKind uint8

// The kinds of source.
const (
	SourceIP         SourceKind = iota // the client's address; IPv6 is cut to its /64
	SourceHeader                       // a request header
	SourceIP48                         // the client's address; IPv6 is cut to its /48
	SourceCookie                       // a cookie
	SourceQuery                        // a parameter of the query, percent-decoded
	SourceGlobal                       // one bucket for all clients; the value is always empty
	SourceDescriptor                   // the entries of an Envoy descriptor; see [Match.Descriptor]
)

// KeySource is one part of a policy's key. The zero value is the client's address.
type KeySource struct {
	Kind SourceKind
	// Name of the header, in lower case; of the cookie or of the query's parameter, as it is. Else empty.
	Name string
}

// sourceWords are the kinds' names, as a policy file spells them and as a bucket's key does.
var sourceWords = map[SourceKind]struct{ file, key string }{
	SourceIP: {"ip", "ip"}, SourceIP48: {"ip/48", "ip/48"}, SourceGlobal: {"global", "g"},
	SourceDescriptor: {"descriptor", "d"},
	SourceHeader:     {"header:", "h:"}, SourceCookie: {"cookie:", "c:"}, SourceQuery: {"query:", "q:"},
}

// ParseKeySource reads "ip", "ip/48", "header:NAME", "cookie:NAME", "query:NAME", "global" or "descriptor".
func ParseKeySource(s string) (KeySource, error) {
	for kind, words := range sourceWords {
		name, found := strings.CutPrefix(s, words.file)
		if !found {
			continue
		}
		if kind == SourceHeader {
			name = strings.ToLower(name)
		}
		if source := (KeySource{kind, name}); source.valid() {
			return source, nil
		}
	}
	return KeySource{}, &FieldError{ErrInvalidPolicy, "key", strconv.Quote(s), keyRule}
}

const keyRule = "must be ip, ip/48, global, header:NAME, cookie:NAME or query:NAME; a header's name has letters, digits and " +
	"hyphens, the others' may have . _ ~ [ ] too"

// valid reports whether [ParseKeySource] could have made s: the name of such a source holds no separator.
func (s KeySource) valid() bool {
	switch s.Kind {
	case SourceIP, SourceIP48, SourceGlobal, SourceDescriptor:
		return s.Name == ""
	case SourceHeader:
		return validHeaderName(s.Name) && s.Name == strings.ToLower(s.Name)
	case SourceCookie, SourceQuery:
		return validSourceName(s.Name, "-._~[]")
	default:
		return false
	}
}

// IsAddress reports whether the value is the client's address.
func (s KeySource) IsAddress() bool { return s.Kind == SourceIP || s.Kind == SourceIP48 }

// validHeaderName allows fewer names than RFC 9110's token: an upstream may read X_Tenant as X-Tenant, so a name
// with an underscore can not be told apart from another header.
func validHeaderName(s string) bool { return validSourceName(s, "-") }

// validSourceName takes letters, digits and the punctuation given.
func validSourceName(s, punctuation string) bool {
	if s == "" || len(s) > maxSourceName {
		return false
	}
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && strings.IndexByte(punctuation, s[i]) < 0 {
			return false
		}
	}
	return true
}

const maxSourceName = 128

// String is the form that [ParseKeySource] reads.
func (s KeySource) String() string { return sourceWords[s.Kind].file + s.Name }

// Key says what tells one client from another: the values of its sources, together. The zero value is the client's
// address. It is not changed once in use.
type Key []KeySource

// MaxKeyParts is the most sources that one key can have.
const MaxKeyParts = 4

// byAddress stands for the zero Key.
var byAddress = Key{{Kind: SourceIP}}

// byDescriptor is the key of policies for Envoy that name none.
var byDescriptor = Key{{Kind: SourceDescriptor}}

// ParseKey reads a list of sources with commas between, as [Key.String] writes it.
func ParseKey(s string) (Key, error) {
	var key Key
	for part := range strings.SplitSeq(s, ",") {
		source, err := ParseKeySource(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		key = append(key, source)
	}
	if err := key.check(); err != nil {
		return nil, err
	}
	return key, nil
}

// Sources returns the sources of which the key is made: at least one.
func (k Key) Sources() []KeySource {
	if len(k) == 0 {
		return byAddress
	}
	return k
}

// address returns the source of a key whose values are addresses.
func (k Key) address() (source KeySource, ok bool) {
	sources := k.Sources()
	return sources[0], len(sources) == 1 && sources[0].IsAddress()
}

// Equal reports whether both keys name the same clients by the same buckets.
func (k Key) Equal(other Key) bool { return slices.Equal(k.Sources(), other.Sources()) }

// String is meant for people and for [ParseKey]: "ip, header:x-tenant".
func (k Key) String() string {
	var b strings.Builder
	for i, source := range k.Sources() {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(source.String())
	}
	return b.String()
}

// check refuses a list in which a source stands twice, or beside one that leaves it nothing to say.
func (k Key) check() *FieldError {
	bad := func(reason string) *FieldError {
		return &FieldError{ErrInvalidPolicy, "key", strconv.Quote(k.String()), reason}
	}
	if len(k) > MaxKeyParts {
		return bad("has more than " + strconv.Itoa(MaxKeyParts) + " parts")
	}
	for i, source := range k {
		switch {
		case !source.valid():
			return bad(keyRule)
		case slices.Contains(k[:i], source):
			return bad("has " + source.String() + " twice")
		case len(k) > 1 && (source.Kind == SourceGlobal || source.Kind == SourceDescriptor):
			return bad(source.String() + " must stand alone")
		}
	}
	return nil
}
