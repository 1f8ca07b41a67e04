package httpfiber

import "fmt"

// Secret is a string that no log shows: every way of printing it gives a placeholder. Any text decodes into it,
// since a parse error would print the text.
type Secret string

const redacted = "[redacted]"

// String hides the secret; an empty one stays empty, so that a print shows whether it is set.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format implements fmt.Formatter, for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// MarshalText hides the secret from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// check refuses what can not stand in an Authorization header (RFC 6750: visible ASCII).
func (s Secret) check() string {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return "must be of visible ASCII characters, without spaces"
		}
	}
	return ""
}
