package clientkey

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// BucketKey names the bucket group of one client under one policy: "<policy>:<source>=<value>"; a key of several
// sources has several such pairs, with & between. The sources are ip, ip/48, h:NAME, c:NAME, q:NAME, g (global) and
// d (descriptor). In place of the policy, the key of a limit that policies share has "shared/<limit>". Values are
// escaped, and names of policies and sources contain no separator. So different clients, sources and policies never share a
// key. In place of the value of a secret source, a key has its HMAC. No key contains a brace, which a store may use to mark the part of the key that selects the shard.
type BucketKey string

// MaxValue is the length of the longest value that a key contains unchanged. A longer value is hashed.
const MaxValue = 256

// NewBucketKey returns the key of one source. policy is the policy's name, or what stands in its place. A value over 256 bytes is replaced by its SHA-256, with a prefix that
// no other value can have. A faster hash would not do: a client could construct collisions.
func NewBucketKey(policy string, source Source, value string) BucketKey {
	switch {
	case source.Secret(): // no other value has the colon of an HMAC, since those are escaped
	case len(value) > MaxValue:
		value = hashed(value)
	case needsEscape(value):
		value = string(appendEscaped(make([]byte, 0, len(value)+16), value))
	}
	// One expression for each case, so that building the key is one allocation.
	switch source.Kind {
	case SourceIP:
		return BucketKey(policy + ":ip=" + value)
	case SourceHeader:
		return BucketKey(policy + ":h:" + source.Name + "=" + value)
	default:
		return BucketKey(policy + ":" + sourceWords[source.Kind].key + source.Name + "=" + value)
	}
}

// Part is one source of a client's key. Value is the value in the request; of a secret source, its HMAC.
type Part struct {
	Source Source
	Value  string
	raw    string // of a secret source: the value in the request, if that is known
}

// NewListBucketKey is [NewBucketKey] for a key of several sources. parts are in the order of the key.
func NewListBucketKey(policy string, parts []Part) BucketKey {
	if len(parts) == 1 {
		return NewBucketKey(policy, parts[0].Source, parts[0].Value)
	}
	var buf [512]byte
	dst := append(append(buf[:0], policy...), ':')
	for i := range parts {
		if i > 0 {
			dst = append(dst, '&')
		}
		dst = append(dst, sourceWords[parts[i].Source.Kind].key...)
		dst = append(append(dst, parts[i].Source.Name...), '=')
		if parts[i].Source.Secret() {
			dst = append(dst, parts[i].Value...)
		} else {
			dst = appendKeyValue(dst, parts[i].Value)
		}
	}
	return BucketKey(dst)
}

// ListValue is the value of a key of several sources, as logs show it: the values joined
// by &, in which & is written as %26 and % as %25. The value of a single source is not changed.
func ListValue(parts []Part) string {
	if len(parts) == 1 {
		return parts[0].Value
	}
	var buf [256]byte
	dst := buf[:0]
	for i := range parts {
		if i > 0 {
			dst = append(dst, '&')
		}
		dst = appendListed(dst, parts[i].Value)
	}
	return string(dst)
}

// SplitListValue is the inverse of [ListValue] for a key of n sources. It reports false if s is no such value.
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
	if len(value) > MaxValue {
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
	if len(value) > MaxValue {
		return append(dst, hashed(value)...)
	}
	return appendEscaped(dst, value)
}

// hashed starts with a percent sign that no escape sequence has.
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

// escapedBytes has a bit for each byte that is escaped: the separators, braces, the percent sign and control characters. A table, since
// branches that depend on the bytes of a random key are mispredicted.
var escapedBytes = [4]uint64{
	1<<' ' - 1 | 1<<'%' | 1<<'&' | 1<<':' | 1<<'=',
	1<<('{'-64) | 1<<('}'-64) | 1<<(0x7f-64),
}

func escaped(c byte) bool { return escapedBytes[c>>6]>>(c&63)&1 != 0 }

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
