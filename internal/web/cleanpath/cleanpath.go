// Package cleanpath puts the path of a request into its one normal form, in which policies match it.
package cleanpath

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
)

// ErrInvalid is the error of a path that has no normal form: servers disagree about the resource that it names.
var ErrInvalid = errors.New("path")

// Normalize puts a path into its one normal form, so that no other spelling of it escapes a policy
// (RFC 3986 section 6.2.2): encoded unreserved characters are decoded, what may not stand in a path is encoded, hex
// digits are upper case, dot segments are removed and slashes merged. The case of letters and a slash at the end are
// kept. The empty path becomes "/".
//
// A path is refused if it encodes a slash, a backslash or a NUL, holds a backslash or a control character, goes
// above the root, is encoded twice, has an incomplete escape or does not start with a slash.
//
// Normalize returns a path that is in its normal form as it is, without allocating.
func Normalize(path string) (string, error) { return Rules{}.Normalize(path) }

// Rules are the choices in what the normal form is. The zero value is that of the function [Normalize].
type Rules struct {
	// EncodedSlashes accepts %2F. It stays encoded, and does not separate segments.
	EncodedSlashes bool
}

// Normalize puts a path into its normal form by these rules.
func (r Rules) Normalize(path string) (string, error) {
	if isNormalPath(path) {
		return path, nil
	}
	if path == "" {
		return "/", nil
	}
	if path[0] != '/' {
		return "", pathError("does not start with a slash")
	}
	var stack [512]byte
	buf, err := r.appendDecoded(stack[:0], path)
	if err != nil {
		return "", err
	}
	if buf, err = removeDotSegments(buf); err != nil {
		return "", err
	}
	if string(buf) == path {
		return path, nil
	}
	return string(buf), nil
}

// isNormalPath is a quick check that nearly every path of a request passes. A path that does not may still be normal.
func isNormalPath(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	for i := 1; i < len(path); i++ {
		c := path[i]
		if !pathByte[c] || path[i-1] == '/' && (c == '/' || c == '.') {
			return false
		}
	}
	return true
}

// appendDecoded appends the path with each byte either as itself or encoded, as the normal form has it.
func (r Rules) appendDecoded(dst []byte, path string) ([]byte, error) {
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case pathByte[c]:
			dst = append(dst, c)
			continue
		case c == '\\' || c < ' ' || c == 0x7f:
			return nil, pathError("holds a backslash or a control character")
		case c != '%':
			dst = appendEncoded(dst, c)
			continue
		}
		c, ok := unhex(path, i+1)
		switch {
		case !ok:
			return nil, pathError("holds a % that is not followed by two hex digits")
		case c == '/' && r.EncodedSlashes:
			dst = appendEncoded(dst, c)
		case c == '/' || c == '\\' || c == 0:
			return nil, pathError(fmt.Sprintf("holds an encoded slash, backslash or NUL (%%%02X)", c))
		case Unreserved(c):
			dst = append(dst, c)
		default:
			dst = appendEncoded(dst, c)
		}
		i += 2
	}
	if encodedTwice(dst) {
		return nil, pathError("is encoded twice")
	}
	return dst, nil
}

// encodedTwice looks at the decoded form, because the second layer may itself be written with escapes: %25%34%31.
func encodedTwice(path []byte) bool {
	for {
		i := bytes.Index(path, []byte("%25"))
		if i < 0 {
			return false
		}
		path = path[i+3:]
		if _, twice := unhex(path, 0); twice {
			return true
		}
	}
}

// removeDotSegments resolves "." and ".." and merges slashes, in place.
func removeDotSegments(path []byte) ([]byte, error) {
	out, rest := path[:0], path
	for len(rest) > 0 {
		segment := rest[1:] // rest starts with a slash
		rest = nil
		if end := bytes.IndexByte(segment, '/'); end >= 0 {
			segment, rest = segment[:end], segment[end:]
		}
		switch string(segment) {
		case "..":
			up := bytes.LastIndexByte(out, '/')
			if up < 0 {
				return nil, pathError("goes above the root")
			}
			out = out[:up]
			fallthrough
		case "", ".":
			if len(rest) == 0 {
				return append(out, '/'), nil
			}
		default:
			out = append(append(out, '/'), segment...)
		}
	}
	return out, nil
}

func pathError(reason string) error {
	return fmt.Errorf("%w: %s", ErrInvalid, reason)
}

// pathByte holds the characters that stand for themselves in a path: pchar of RFC 3986 and the slash.
var pathByte = func() (set [256]bool) {
	for c := range set {
		set[c] = Unreserved(byte(c)) || bytes.IndexByte([]byte("/!$&'()*+,;=:@"), byte(c)) >= 0
	}
	return set
}()

// Unreserved reports whether c is one of the characters whose encoding never changes a URI's meaning (RFC 3986 section 2.3).
func Unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

const upperHex = "0123456789ABCDEF"

func appendEncoded(dst []byte, c byte) []byte {
	return append(dst, '%', upperHex[c>>4], upperHex[c&15])
}

// unhex reads two hex digits at s[i:].
func unhex[T string | []byte](s T, i int) (byte, bool) {
	if i+2 > len(s) {
		return 0, false
	}
	var b [1]byte
	_, err := hex.Decode(b[:], []byte(s[i:i+2]))
	return b[0], err == nil
}

// AppendEscaped appends a path, in its normal form or not, so that neither JSON nor a URI can misread it. A path that has
// no normal form has every byte encoded that is not a path's own, the percent sign too. It is cut after 256 bytes.
func AppendEscaped(dst []byte, path string) []byte {
	const longest = 256
	if normal, err := Normalize(path); err == nil && len(normal) <= longest {
		return append(dst, normal...)
	}
	for i := range min(len(path), longest) {
		if c := path[i]; pathByte[c] {
			dst = append(dst, c)
		} else {
			dst = appendEncoded(dst, c)
		}
	}
	return dst
}
