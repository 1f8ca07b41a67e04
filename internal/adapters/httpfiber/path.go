package httpfiber

import (
	"bytes"
	"errors"
	"fmt"
)

// errPath refuses a path that has no normal form, because servers disagree about what it names.
var errPath = errors.New("path")

// NormalizePath puts a request's path into its one normal form, so that no other spelling of it escapes a policy
// (RFC 3986 section 6.2.2): encoded unreserved characters are decoded, what may not stand in a path is encoded, hex
// digits are upper case, dot segments are removed and slashes merged. The case of letters is kept, and so is a
// slash at the end. The empty path is "/".
//
// A path is refused if it encodes a slash, a backslash or a NUL, holds a backslash or a control character, goes
// above the root, is encoded twice, has an incomplete escape or does not start with a slash.
//
// A path that is in its normal form already is returned as it is, without allocating.
func NormalizePath(path string) (string, error) { return PathRules{}.Normalize(path) }

// PathRules are the choices in what the normal form is. The zero value is NormalizePath's.
type PathRules struct {
	// EncodedSlashes lets %2F through, as a character like any other: it divides no segments, and stays encoded.
	EncodedSlashes bool
}

// Normalize is [NormalizePath] by these rules.
func (r PathRules) Normalize(path string) (string, error) {
	if isNormalPath(path) {
		return path, nil
	}
	if path == "" {
		return "/", nil
	}
	if path[0] != '/' {
		return "", pathError("does not start with a slash")
	}
	var room [512]byte
	buf, err := r.appendDecoded(room[:0], path)
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

// isNormalPath recognises the paths that nearly every request has; false says nothing.
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

// appendDecoded gives every byte its normal spelling.
func (r PathRules) appendDecoded(dst []byte, path string) ([]byte, error) {
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
		case unreserved(c):
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

// encodedTwice looks at the decoded form, since the second layer may itself be written with escapes: %25%34%31.
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
	return &inputError{errPath, "path", reason}
}

// pathByte holds the characters that stand for themselves in a path: pchar of RFC 3986 and the slash.
var pathByte = func() (set [256]bool) {
	for c := range set {
		set[c] = unreserved(byte(c)) || bytes.IndexByte([]byte("/!$&'()*+,;=:@"), byte(c)) >= 0
	}
	return set
}()

// unreserved are the characters whose encoding never changes a URI's meaning (RFC 3986 section 2.3).
func unreserved(c byte) bool {
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
	hi, ok1 := hexDigit(s[i])
	lo, ok2 := hexDigit(s[i+1])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}
