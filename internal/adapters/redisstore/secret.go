package redisstore

import (
	"fmt"
	"io"
)

// Secret is a string that no format verb, logger or encoder shows. Convert it to a string to use it.
type Secret string

const redacted = "[redacted]"

// String hides the secret; an empty one is shown as empty, which tells a missing setting from a wrong one.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format implements fmt.Formatter: without it, verbs that do not fit a string would print the value.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText hides the secret from JSON and from structured loggers.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
