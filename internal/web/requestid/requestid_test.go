package requestid

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func FuzzRequestID(f *testing.F) {
	for _, seed := range []string{"", "a", "a b", "a\r\nX: y", strings.Repeat("x", 64), strings.Repeat("x", 65), "é"} {
		f.Add([]byte(seed))
	}
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
	f.Fuzz(func(t *testing.T, id []byte) {
		want := len(id) >= 1 && len(id) <= 64 && strings.Trim(string(id), allowed) == "" &&
			!bytes.ContainsFunc(id, func(r rune) bool { return !strings.ContainsRune(allowed, r) })
		assert.Equal(t, want, Valid(id))
	})
}
