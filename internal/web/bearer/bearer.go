// Package bearer checks the bearer token of a request (RFC 6750). Several tokens may be valid at a time, each with a name, so
// that they can be replaced one after the other.
package bearer

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"sync/atomic"

	"github.com/velocity-limiter/velocity/internal/secret"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// Tokens are the tokens that requests may send. Make it with [New]; safe for concurrent use.
type Tokens struct {
	list atomic.Pointer[[]entry]
}

// entry is a token that is valid.
type entry struct {
	name string
	sum  [sha256.Size]byte
}

// New returns the tokens that a secret lists, in the form that [Validate] describes; no token is set if it is empty. If it is
// not valid, no token is right.
func New(list secret.Secret) *Tokens {
	t := new(Tokens)
	t.list.Store(new([]entry))
	if list != "" && t.Replace(list) != nil {
		t.list.Store(&[]entry{{}}) // no token has a hash of zeros
	}
	return t
}

// Replace makes these the only tokens that are valid. If the list is not valid, it returns the error of [Validate] and changes
// nothing.
func (t *Tokens) Replace(list secret.Secret) error {
	lines, err := parse(list)
	if err != nil {
		return err
	}
	entries := make([]entry, len(lines))
	for i, l := range lines {
		entries[i] = entry{l.name, sha256.Sum256([]byte(l.token))}
	}
	t.list.Store(&entries)
	return nil
}

// Set reports whether requests need a token.
func (t *Tokens) Set() bool { return len(*t.list.Load()) > 0 }

// Check returns the name of the token if the values of Authorization are one of the tokens alone. It compares hashes in
// constant time, always with every token, so that the time it takes shows neither the length nor the first characters of a
// token, nor which one was sent.
func (t *Tokens) Check(authorization [][]byte) (name string, err error) {
	if len(authorization) != 1 {
		return "", unauthorized("must be sent once, as Bearer and the token")
	}
	scheme, token, _ := bytes.Cut(authorization[0], []byte(" "))
	if !bytes.EqualFold(scheme, []byte("Bearer")) {
		return "", unauthorized("must be Bearer and the token")
	}
	sum := sha256.Sum256(bytes.TrimLeft(token, " "))
	valid, found := *t.list.Load(), -1
	for i := range valid {
		equal := subtle.ConstantTimeCompare(sum[:], valid[i].sum[:])
		found = subtle.ConstantTimeSelect(equal, i, found)
	}
	if found < 0 {
		return "", unauthorized("this is not the token")
	}
	return valid[found].name, nil
}

func unauthorized(reason string) error {
	return problem.Input(problem.ErrUnauthorized, "Authorization", reason)
}
