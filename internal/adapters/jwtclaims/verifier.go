// Package jwtclaims verifies the tokens (JWT) of requests, for keys and conditions by their claims.
//
// What it promises:
//
//   - A token has one spelling. What differs from it in a byte is another token, or none: parts that are not canonical base64url
//     without padding, repeated members, text that is not UTF-8, an extension that must be understood (crit), and dates that are
//     not numbers make a token malformed. So one token cannot be spelled in many ways to fill memory.
//   - Only the algorithms that the rules list are accepted, and each with keys of its kind alone. Keys come from the rules' source
//     alone: what a token's header says about keys, but for the name of one (kid), is not looked at.
//   - Tokens, and their claims but for those that policies name, are not in logs, traces and metrics.
//   - The memory of results is bounded: a ninth of it is for tokens that were not believed, so that forged tokens drop no good
//     ones.
//
// It does not refuse requests: a token that is not believed counts as absent.
package jwtclaims

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/domain/token"
	"github.com/velocity-limiter/velocity/internal/web/keyvalue"
)

// Verifier verifies tokens by rules that may change. Make it with New. It is safe for concurrent use.
type Verifier struct {
	log     *zap.Logger
	client  *http.Client
	current atomic.Pointer[verification] // nil: no token is believed

	rejected        [reasonsEnd]atomic.Uint64
	loads, failures atomic.Uint64

	begun time.Time // when it was made
	bytes uint64    // the bound of the memory of results

	mu    sync.Mutex // held while the rules change
	inUse bool       // Use has been called before
}

var _ keyvalue.Tokens = (*Verifier)(nil)

// New returns a Verifier that believes no token yet. Close it after use.
func New(log *zap.Logger) *Verifier {
	return &Verifier{log: log, client: newClient(), begun: time.Now(), bytes: defaultBytes}
}

// LimitMemory bounds the memory of results, in bytes; it is 36 MiB before. Call it before Use.
func (v *Verifier) LimitMemory(bytes int) { v.bytes = uint64(bytes) }

// Use verifies by these rules from now on; nil believes no token. Keys in a file must be there, or Use changes nothing and returns
// the error. Keys at a URL are fetched meanwhile, and until then every token is rejected; but when Use is called again, it waits for
// the first fetch, and until then nothing changes. Rules that are the same change nothing, and rules whose keys come from the same place keep those.
func (v *Verifier) Use(rules *token.Rules) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	again := v.inUse
	v.inUse = true
	old := v.current.Load()
	switch {
	case rules == nil:
		v.current.Store(nil)
		old.stop(true)
		return nil
	case old != nil && old.rules.Equal(rules):
		return nil
	}
	keys, err := v.keysFor(rules, old, again)
	if err != nil {
		return err
	}
	next, err := newVerification(*rules, keys, v.bytes)
	if err != nil {
		return err
	}
	v.current.Store(next)
	old.stop(old != nil && old.keys != keys)
	return nil
}

// keysFor returns the source of the keys of rules, which is that of old if their keys come from the same place. With wait it waits
// for the first fetch.
func (v *Verifier) keysFor(rules *token.Rules, old *verification, wait bool) (*source, error) {
	if old != nil && old.rules.SameKeys(rules) && old.keys.rules.SecretBytes() == rules.SecretBytes() {
		return old.keys, nil
	}
	keys := newSource(*rules, v.client, v.log, &v.loads, &v.failures)
	if rules.JWKSURL == "" || wait {
		if err := keys.load(context.Background()); err != nil && rules.JWKSURL == "" {
			return nil, &KeysError{Source: keys.name(), Err: err}
		}
	}
	keys.start()
	return keys, nil
}

// KeysError says that keys could not be loaded.
type KeysError struct {
	// Source is the file, or the URL without its query.
	Source string
	Err    error
}

// Error implements error.
func (e *KeysError) Error() string {
	if text := e.Err.Error(); strings.Contains(text, e.Source) {
		return "the keys of jwt cannot be loaded: " + text
	}
	return "the keys of jwt cannot be loaded: " + e.Source + ": " + e.Err.Error()
}

// Unwrap returns the error of the load.
func (e *KeysError) Unwrap() error { return e.Err }

// Close ends the goroutines. Tokens are not believed any more.
func (v *Verifier) Close() error { return v.Use(nil) }

// Claims implements keyvalue.Tokens: it returns the claims of a request's token, or nil if there is no token that is believed. It
// counts each token that it rejects.
func (v *Verifier) Claims(h keyvalue.Header) keyvalue.Claims {
	current := v.current.Load()
	if current == nil {
		return nil
	}
	text, reason := current.tokenIn(h)
	if reason == accepted {
		if text == "" {
			return nil
		}
		found := current.check(text, time.Now())
		if reason = found.reason; reason == accepted {
			return &found.claims
		}
	}
	v.rejected[reason].Add(1)
	return nil
}

// Rejected returns how many tokens were rejected for a reason.
func (v *Verifier) Rejected(reason Reason) uint64 { return v.rejected[reason].Load() }

// Loads returns how often keys were loaded, and how often they could not be.
func (v *Verifier) Loads() (loaded, failed uint64) { return v.loads.Load(), v.failures.Load() }

// startTime is how long after the start a node without keys is not ready; then it decides without them.
const startTime = 10 * time.Second

// Keys reports whether keys are in use, or are not needed; and otherwise, whether the process began so short a time ago that it is
// better to wait for them.
func (v *Verifier) Keys() (loaded, starting bool) {
	current := v.current.Load()
	if current == nil || current.keys.set.Load() != nil {
		return true, false
	}
	return false, time.Since(v.begun) < startTime
}

// Stale reports whether the keys in use could not be loaded again when that was last tried. They stay in use.
func (v *Verifier) Stale() bool {
	current := v.current.Load()
	return current != nil && current.keys.set.Load() != nil && current.keys.failing.Load()
}

// tokenIn returns the token in a header, or "" if there is none: a header of another scheme, such as Basic, has none.
func (c *verification) tokenIn(h keyvalue.Header) (text string, reason Reason) {
	text, lines := h.Values(c.header)
	if lines > 1 {
		return "", Twice
	}
	text = strings.Trim(text, " \t")
	if scheme, rest, found := strings.Cut(text, " "); found {
		if !strings.EqualFold(scheme, "Bearer") {
			if strings.Count(text, ".") < 2 {
				return "", accepted
			}
			rest = text // no scheme, and so malformed or two tokens
		}
		text = strings.Trim(rest, " ")
	}
	switch {
	case strings.IndexByte(text, ',') >= 0:
		return "", Twice
	case strings.EqualFold(text, "Bearer"):
		return "", Malformed
	}
	return text, accepted
}

// Checked is what is known about one token.
type Checked struct {
	// Present says that the request has a token, Reason why it is not believed; the zero Reason says that it is.
	Present bool
	Reason  Reason
	// Claims are those of a token that is believed; else nil.
	Claims keyvalue.Claims
	// KeyID and Algorithm are what the token's header says, Expires is its claim exp. Empty and zero: not known.
	KeyID, Algorithm string
	Expires          time.Time
}

// CheckOnce verifies the token of one request by rules. It loads the keys first, and returns the error if it cannot.
func CheckOnce(ctx context.Context, rules *token.Rules, h keyvalue.Header) (Checked, error) {
	var loads, failures atomic.Uint64
	keys := newSource(*rules, newClient(), zap.NewNop(), &loads, &failures)
	if err := keys.load(ctx); err != nil {
		return Checked{}, &KeysError{Source: keys.name(), Err: err}
	}
	defer keys.client.CloseIdleConnections()
	one, err := newVerification(*rules, keys, defaultBytes)
	if err != nil {
		return Checked{}, err
	}
	defer one.stop(false)
	text, reason := one.tokenIn(h)
	if reason != accepted || text == "" {
		return Checked{Present: reason != accepted, Reason: reason}, nil
	}
	found := one.check(text, time.Now())
	checked := Checked{Present: true, Reason: found.reason, KeyID: found.keyID, Algorithm: found.algorithm}
	if exp, err := found.claims.GetExpirationTime(); err == nil && exp != nil {
		checked.Expires = exp.Time
	}
	if found.reason == accepted {
		checked.Claims = &found.claims
	}
	return checked, nil
}
