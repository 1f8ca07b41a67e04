// Package requestid makes the id with which a request is logged and answered.
package requestid

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"

	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
)

// Header is the header that carries the id, as Go's net/http spells it.
const Header = "X-Request-Id"

// maxLen is the length of the longest id that is taken from a client.
const maxLen = 64

// Valid reports whether a client's id matches [A-Za-z0-9._-]{1,64}. Another one must not be logged or answered.
func Valid[T string | []byte](id T) bool {
	if len(id) == 0 || len(id) > maxLen {
		return false
	}
	for i := range len(id) {
		if c := id[i]; !cleanpath.Unreserved(c) || c == '~' {
			return false
		}
	}
	return true
}

// Append appends a new id of random bits, in hexadecimal: it is unique, and no secret.
func Append(dst []byte) []byte {
	var raw [16]byte
	binary.NativeEndian.PutUint64(raw[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(raw[8:], rand.Uint64())
	return hex.AppendEncode(dst, raw[:])
}
