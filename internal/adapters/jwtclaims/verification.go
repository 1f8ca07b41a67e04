package jwtclaims

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"
	"github.com/maypok86/otter/v2"

	"github.com/velocity-limiter/velocity/internal/domain/token"
)

// MaxToken is the longest token that is looked at, in bytes. The servers accept no longer header.
const MaxToken = 8 << 10

// Bounds of the memory of results, about, and of their age. The age matters for tokens without exp, and for those that were
// rejected.
const (
	defaultBytes = 36 << 20
	// One of so many bytes is for the tokens that were rejected.
	badShare = 9
	// entryBytes is the memory of a result beside its texts.
	entryBytes = 512
	// goodAge bounds the age of a result about a token without exp.
	goodAge = 5 * time.Minute
	badAge  = time.Minute
)

// verification verifies tokens by one set of rules. It is safe for concurrent use.
type verification struct {
	rules  token.Rules
	header string
	parser *jwt.Parser
	keys   *source
	// good and bad hold the results of tokens by their whole text. They are apart so that rejected tokens, which anyone can make,
	// drop no others.
	good, bad *otter.Cache[string, *result]
}

// result is what came out about one token. It is immutable.
type result struct {
	claims           claimSet
	reason           Reason
	keyID, algorithm string    // as the token says
	set              *keySet   // by which it was verified
	id               string    // of the key in it that verified the token; empty: any of them
	until            time.Time // when the result is not to be used any more
}

func newVerification(rules token.Rules, keys *source, bytes uint64) (*verification, error) {
	header := rules.Header
	if header == "" {
		header = token.DefaultHeader
	}
	c := &verification{rules: rules, header: header, keys: keys, parser: newParser(&rules)}
	for _, cache := range []struct {
		into  **otter.Cache[string, *result]
		bytes uint64
	}{{&c.good, bytes - bytes/badShare}, {&c.bad, bytes / badShare}} {
		var err error
		*cache.into, err = otter.New(&otter.Options[string, *result]{
			MaximumWeight: cache.bytes,
			// Both lengths are bounded by MaxToken.
			Weigher: func(text string, r *result) uint32 {
				return uint32(len(text) + r.claims.bytes + entryBytes)
			},
		})
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

func newParser(rules *token.Rules) *jwt.Parser {
	options := []jwt.ParserOption{
		jwt.WithValidMethods(rules.Accepted()), jwt.WithStrictDecoding(), jwt.WithLeeway(rules.Leeway),
	}
	if rules.Issuer != "" {
		options = append(options, jwt.WithIssuer(rules.Issuer))
	}
	if len(rules.Audience) > 0 {
		options = append(options, jwt.WithAudience(rules.Audience...))
	}
	return jwt.NewParser(options...)
}

// stop ends the goroutines of the caches, and with keys those that follow the keys. A nil verification has none.
func (c *verification) stop(keys bool) {
	if c == nil {
		return
	}
	c.good.StopAllGoroutines()
	c.bad.StopAllGoroutines()
	if keys {
		c.keys.stop()
	}
}

// check returns the result of a token, which may be known. text must be valid during the call alone.
func (c *verification) check(text string, now time.Time) *result {
	set := c.keys.set.Load()
	if r, known := c.good.GetIfPresent(text); known && now.Before(r.until) && (r.set == set || r.id != "" && set.has(r.id)) {
		return r
	}
	if r, known := c.bad.GetIfPresent(text); known && now.Before(r.until) && r.set == set {
		return r
	}
	text = strings.Clone(text)
	r := c.verify(text, set, now)
	switch r.reason {
	case accepted:
		c.good.Set(text, r)
	case UnknownKey:
		c.keys.ask()
	case NoKeys, TooLong, NotYetValid: // cheap to find out, or about to change
	default:
		c.bad.Set(text, r)
	}
	return r
}

// verify verifies a token.
func (c *verification) verify(text string, set *keySet, now time.Time) *result {
	r := &result{set: set, until: now.Add(badAge)}
	if r.reason = wellFormed(text); r.reason != accepted {
		return r
	}
	if set == nil {
		r.reason = NoKeys
		return r
	}
	var findErr error
	parsed, err := c.parser.ParseWithClaims(text, &r.claims, func(t *jwt.Token) (any, error) {
		key, id, err := set.find(t)
		r.id, findErr = id, err
		return key, err
	})
	if parsed != nil && parsed.Method != nil {
		r.algorithm = parsed.Method.Alg()
		r.keyID, _ = parsed.Header["kid"].(string)
	}
	if r.reason = c.reasonOf(err, findErr, parsed, &r.claims); r.reason == accepted {
		r.until = now.Add(goodAge)
		if exp, _ := r.claims.GetExpirationTime(); exp != nil {
			r.until = exp.Add(c.rules.Leeway)
		}
	}
	return r
}

// base64url holds the characters of a token.
const base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// isTokenByte says of each byte whether it may be in a token.
var isTokenByte = func() (table [256]bool) {
	for _, b := range []byte(base64url + ".") {
		table[b] = true
	}
	return table
}()

// wellFormed checks what the library does not: that the token has only characters of base64url, which its decoder skips if they
// are ends of lines, and what its header holds.
func wellFormed(text string) Reason {
	if len(text) > MaxToken {
		return TooLong
	}
	for i := range len(text) {
		if !isTokenByte[text[i]] {
			return Malformed
		}
	}
	first, _, _ := strings.Cut(text, ".")
	header, err := base64.RawURLEncoding.Strict().DecodeString(first)
	if err != nil || checkHeader(header) != nil {
		return Malformed
	}
	return accepted
}

// errExtension says that a header has an extension that must be understood.
var errExtension = errors.New("has crit: no extension is understood")

// checkHeader refuses repeated members, and extensions that must be understood (RFC 7515, section 4.1.11).
func checkHeader(header []byte) error {
	return eachMember(header, func(name string, value jsontext.Value) error {
		switch {
		case name == "crit":
			return errExtension
		case (name == "kid" || name == "alg") && value.Kind() != '"':
			return jwt.ErrInvalidType
		}
		return nil
	})
}

// reasonOf chooses the reason for an error of the library. found is the error of [keySet.find].
func (c *verification) reasonOf(err, found error, parsed *jwt.Token, claims *claimSet) Reason {
	switch {
	case err == nil && claims.parsed:
		return accepted
	case err == nil: // the claims are null
		return Malformed
	case errors.Is(found, errUnknownKey):
		return UnknownKey
	case errors.Is(found, errAlgorithm):
		return Algorithm
	case errors.Is(err, jwt.ErrTokenMalformed):
		return Malformed
	case errors.Is(err, jwt.ErrTokenUnverifiable), parsed != nil && parsed.Method != nil && !slices.Contains(c.rules.Accepted(), parsed.Method.Alg()):
		return Algorithm
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return Signature
	case !claims.parsed:
		return Malformed
	case errors.Is(err, jwt.ErrTokenExpired):
		return Expired
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return NotYetValid
	case errors.Is(err, jwt.ErrTokenInvalidIssuer), errors.Is(err, jwt.ErrTokenRequiredClaimMissing) && c.rules.Issuer != "" && claims.iss == nil:
		return WrongIssuer
	case errors.Is(err, jwt.ErrTokenInvalidAudience), errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return WrongAudience
	default:
		return Malformed
	}
}
