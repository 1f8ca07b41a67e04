// Package jsonpointer parses JSON pointers (RFC 6901), such as /usage/total_tokens, and finds the numbers at such places in
// JSON texts, in one pass and without building a tree of the text.
package jsonpointer

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxLength bounds the text of a pointer, in bytes.
const MaxLength = 1024

// Pointer is a parsed pointer. The zero value points to nothing. A Pointer does not change, so goroutines may share it.
type Pointer struct {
	text  string
	names []string
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

// Parse reads a pointer. Its text begins with a slash: the empty pointer, which RFC 6901 has for the whole text, is refused.
// The error says what is wrong, without the text.
func Parse(text string) (Pointer, error) {
	switch {
	case !strings.HasPrefix(text, "/"):
		return Pointer{}, errors.New("a JSON pointer begins with a slash, as in /usage/total_tokens (RFC 6901)")
	case len(text) > MaxLength:
		return Pointer{}, fmt.Errorf("a JSON pointer has at most %d bytes", MaxLength)
	case !utf8.ValidString(text):
		return Pointer{}, errors.New("a JSON pointer is UTF-8")
	}
	for i, c := range []byte(text) {
		if c == '~' && !strings.HasPrefix(text[i+1:], "0") && !strings.HasPrefix(text[i+1:], "1") {
			return Pointer{}, errors.New("in a JSON pointer, ~ is written ~0, and a slash in a name ~1 (RFC 6901)")
		}
	}
	names := strings.Split(text[1:], "/")
	for i, name := range names {
		names[i] = unescape.Replace(name)
	}
	return Pointer{text: text, names: names}, nil
}

// String returns the text that was parsed. It is empty for the zero value.
func (p Pointer) String() string { return p.text }

// IsZero reports whether p points to nothing.
func (p Pointer) IsZero() bool { return p.text == "" }

// Names returns the names of the members on the way from the top to the value, the outermost first, without escapes. In
// an array, a name is an index. The caller must not change them.
func (p Pointer) Names() []string { return p.names }

// Index returns the index of an array that name means, or -1 if it means none: digits without a zero before them.
func Index(name string) int {
	if name == "" || len(name) > 9 || name[0] == '0' && name != "0" {
		return -1
	}
	index := 0
	for _, c := range []byte(name) {
		if c < '0' || c > '9' {
			return -1
		}
		index = index*10 + int(c-'0')
	}
	return index
}
