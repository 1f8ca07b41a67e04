// Package secret holds the type of settings that must never be printed, such as passwords and tokens.
package secret

import (
	"fmt"
	"io"
)

// Secret is a string that no format verb, logger or encoder prints. Convert it to a string to use it. Any text
// decodes into it, so that no parse error can print the text.
type Secret string

const redacted = "[redacted]"

// String returns a placeholder, or the empty string for an empty secret, which shows that the setting is missing.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format implements fmt.Formatter, for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText implements encoding.TextMarshaler. It returns what String does.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
