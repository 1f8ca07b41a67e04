package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// SourceKind says where the value of a key comes from.
type SourceKind uint8

// The kinds of source.
const (
	SourceIP     SourceKind = iota // the client's address; IPv6 is cut to a prefix
	SourceHeader                   // a request header
)

// ipv6Bits is how much of an IPv6 address names a client: a /64 is one customer's link.
const ipv6Bits = 64

// KeySource is one part of a policy's key. The zero value is the client's address.
type KeySource struct {
	Kind SourceKind
	// Name is the header's, in lower case. Empty for SourceIP.
	Name string
}

// ParseKeySource reads "ip" or "header:NAME".
func ParseKeySource(s string) (KeySource, error) {
	kind, name, named := strings.Cut(s, ":")
	switch {
	case s == "ip":
		return KeySource{Kind: SourceIP}, nil
	case kind == "header" && named && validHeaderName(name):
		return KeySource{Kind: SourceHeader, Name: strings.ToLower(name)}, nil
	}
	return KeySource{}, &FieldError{ErrInvalidPolicy, "key", strconv.Quote(s), keyRule}
}

const keyRule = "must be ip or header:NAME, with a name of letters, digits and hyphens"

// valid reports whether [ParseKeySource] could have made s: the name of such a source holds no separator.
func (s KeySource) valid() bool {
	switch s.Kind {
	case SourceIP:
		return s.Name == ""
	case SourceHeader:
		return validHeaderName(s.Name) && s.Name == strings.ToLower(s.Name)
	default:
		return false
	}
}

// validHeaderName allows fewer names than RFC 9110's token: an upstream may read X_Tenant as X-Tenant, so a name
// with an underscore can not be told apart from another header.
func validHeaderName(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (s[i] < '0' || s[i] > '9') && s[i] != '-' {
			return false
		}
	}
	return true
}

// String is the form that [ParseKeySource] reads.
func (s KeySource) String() string {
	if s.Kind == SourceHeader {
		return "header:" + s.Name
	}
	return "ip"
}

// BucketKey names the bucket group of one client under one policy: "<policy>:<source>=<value>". Values are
// escaped, and the names of policies and sources hold no separator, so that different clients, sources and policies
// never share a key, and no key holds a brace, which a store may use to mark what decides the shard.
type BucketKey string

// maxKeyValue is the longest value that stands in a key as it is; a longer one is hashed.
const maxKeyValue = 256

// NewBucketKey builds the key. A value over 256 bytes is replaced by its SHA-256 (not by a faster hash, whose
// collisions could be made), marked so that no other value can look like it.
func NewBucketKey(policy string, source KeySource, value string) BucketKey {
	switch {
	case len(value) > maxKeyValue:
		sum := sha256.Sum256([]byte(value))
		value = "%sha256-" + hex.EncodeToString(sum[:])
	case needsEscape(value):
		value = string(appendEscaped(make([]byte, 0, len(value)+16), value))
	}
	if source.Kind == SourceHeader {
		return BucketKey(policy + ":h:" + source.Name + "=" + value)
	}
	return BucketKey(policy + ":ip=" + value)
}

// needsEscape reports whether appendEscaped would change s.
func needsEscape(s string) bool {
	for i := range len(s) {
		if escaped(s[i]) {
			return true
		}
	}
	return false
}

// escaped are the separators, braces, the percent sign and control characters.
func escaped(c byte) bool {
	switch c {
	case '{', '}', ':', '=', '&', '%', 0x7f:
		return true
	}
	return c < 0x20
}

// appendEscaped percent-encodes.
func appendEscaped(dst []byte, s string) []byte {
	const hexDigits = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; escaped(c) {
			dst = append(dst, '%', hexDigits[c>>4], hexDigits[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// ClientAddress is the value of an ip key: mapped IPv4 is IPv4, the zone is dropped, IPv6 is cut to its /64.
// The zero Addr gives "".
func ClientAddress(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	prefix, _ := a.Prefix(ipv6Bits) // fails for a length out of range only
	return prefix.String()
}

// NormalizeAddress is [ClientAddress] for text: what is no address is taken as it is.
func NormalizeAddress(s string) string {
	if a, err := netip.ParseAddr(s); err == nil {
		return ClientAddress(a)
	}
	return s
}
