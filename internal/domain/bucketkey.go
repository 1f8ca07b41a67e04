package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// BucketKey names the bucket group of one client under one policy: "<policy>:<source>=<value>"; a key of several
// sources has several such pairs, with & between. The sources are ip, ip/48, h:NAME, c:NAME, q:NAME, g (global) and
// d (descriptor). Values are escaped, and the names of policies and sources hold no separator, so that different
// clients, sources and policies never share a key, and no key holds a brace, which a store may use to mark what
// decides the shard.
type BucketKey string

// maxKeyValue is the longest value that stands in a key as it is; a longer one is hashed.
const maxKeyValue = 256

// NewBucketKey builds the key of one source. A value over 256 bytes is replaced by its SHA-256 (not by a faster hash,
// whose collisions could be made), marked so that no other value can look like it.
func NewBucketKey(policy string, source KeySource, value string) BucketKey {
	switch {
	case len(value) > maxKeyValue:
		value = hashed(value)
	case needsEscape(value):
		value = string(appendEscaped(make([]byte, 0, len(value)+16), value))
	}
	// Each in one expression, which is one allocation.
	switch source.Kind {
	case SourceIP:
		return BucketKey(policy + ":ip=" + value)
	case SourceHeader:
		return BucketKey(policy + ":h:" + source.Name + "=" + value)
	default:
		return BucketKey(policy + ":" + sourceWords[source.Kind].key + source.Name + "=" + value)
	}
}

// KeyPart is one source of a client's key, with the value that the request had for it.
type KeyPart struct {
	Source KeySource
	Value  string
}

// NewListKey is [NewBucketKey] for a key of several sources, in the order of the key.
func NewListKey(policy string, parts []KeyPart) BucketKey {
	if len(parts) == 1 {
		return NewBucketKey(policy, parts[0].Source, parts[0].Value)
	}
	var room [512]byte
	dst := append(append(room[:0], policy...), ':')
	for i := range parts {
		if i > 0 {
			dst = append(dst, '&')
		}
		dst = append(dst, sourceWords[parts[i].Source.Kind].key...)
		dst = append(append(dst, parts[i].Source.Name...), '=')
		dst = appendKeyValue(dst, parts[i].Value)
	}
	return BucketKey(dst)
}

// ListValue is the value of a key of several sources, as logs and the patterns of a policy know it: the values with &
// between, and in them & as %26 and % as %25. That of a single source stands as it is.
func ListValue(parts []KeyPart) string {
	if len(parts) == 1 {
		return parts[0].Value
	}
	var room [256]byte
	dst := room[:0]
	for i := range parts {
		if i > 0 {
			dst = append(dst, '&')
		}
		dst = appendListed(dst, parts[i].Value)
	}
	return string(dst)
}

// SplitListValue is the inverse of [ListValue] for a key of n sources; false if s is no such value.
func SplitListValue(s string, n int) ([]string, bool) {
	if n == 1 {
		return []string{s}, true
	}
	values := strings.Split(s, "&")
	for i := range values {
		escapes := strings.Count(values[i], "%26") + strings.Count(values[i], "%25")
		if escapes != strings.Count(values[i], "%") {
			return nil, false
		}
		values[i] = listedEscapes.Replace(values[i])
	}
	return values, len(values) == n
}

var listedEscapes = strings.NewReplacer("%26", "&", "%25", "%")

func appendListed(dst []byte, value string) []byte {
	if len(value) > maxKeyValue {
		return append(dst, hashed(value)...)
	}
	for i := range len(value) {
		switch value[i] {
		case '&':
			dst = append(dst, "%26"...)
		case '%':
			dst = append(dst, "%25"...)
		default:
			dst = append(dst, value[i])
		}
	}
	return dst
}

func appendKeyValue(dst []byte, value string) []byte {
	if len(value) > maxKeyValue {
		return append(dst, hashed(value)...)
	}
	return appendEscaped(dst, value)
}

// hashed begins with a percent sign that no escaping writes.
func hashed(value string) string {
	sum := sha256.Sum256([]byte(value))
	return "%sha256-" + hex.EncodeToString(sum[:])
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
