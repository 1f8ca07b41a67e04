// Package token says which tokens (JWT, RFC 7519) of requests are believed: the section jwt of a policy file.
package token

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// DefaultHeader is the header that holds tokens if the rules name none.
const DefaultHeader = "Authorization"

// MaxLeeway is the largest leeway.
const MaxLeeway = 10 * time.Minute

// Rules say which tokens are believed. They must not be changed once they are in use.
type Rules struct {
	// Header is the name of the header that holds tokens, with or without the word Bearer before them. Empty: DefaultHeader.
	Header string
	// Exactly one of these says where the keys are: the file of a key set (JWKS, RFC 7517), its URL, or the file of a secret.
	JWKSFile, JWKSURL, HMACSecretFile string
	// Issuer is what the claim iss must be. Empty: it is not looked at.
	Issuer string
	// Audience is what the claim aud must have, one of these at least. Empty: it is not looked at.
	Audience []string
	// Algorithms that are accepted, by their names in RFC 7518. Empty: see [Rules.Accepted].
	Algorithms []string
	// Leeway is how far the clocks of the issuer and of this machine may differ.
	Leeway time.Duration
}

// Algorithms are those that can be accepted, by the kind of their keys.
var (
	keySetAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	secretAlgorithms = []string{"HS256", "HS384", "HS512"}
)

// Algorithms returns the names of all algorithms that rules can accept. None, which signs nothing, is not among them.
func Algorithms() []string { return slices.Concat(keySetAlgorithms, secretAlgorithms) }

// Accepted returns the algorithms that are accepted: those that are listed, else RS256, ES256 and EdDSA by a key set, or HS256 by
// a secret.
func (r *Rules) Accepted() []string {
	switch {
	case len(r.Algorithms) > 0:
		return r.Algorithms
	case r.HMACSecretFile != "":
		return []string{"HS256"}
	default:
		return []string{"RS256", "ES256", "EdDSA"}
	}
}

// SameKeys reports whether both rules take their keys from the same place.
func (r *Rules) SameKeys(other *Rules) bool {
	return r.JWKSFile == other.JWKSFile && r.JWKSURL == other.JWKSURL && r.HMACSecretFile == other.HMACSecretFile
}

// Equal reports whether both rules say the same.
func (r *Rules) Equal(other *Rules) bool {
	return r.SameKeys(other) && r.Header == other.Header && r.Issuer == other.Issuer && r.Leeway == other.Leeway &&
		slices.Equal(r.Audience, other.Audience) && slices.Equal(r.Algorithms, other.Algorithms)
}

// SecretBytes is how many bytes a secret must have at least: as many as the digests of the algorithms (RFC 7518, section 3.2).
func (r *Rules) SecretBytes() int {
	least := 32
	for _, name := range r.Accepted() {
		switch name {
		case "HS384":
			least = max(least, 48)
		case "HS512":
			least = max(least, 64)
		}
	}
	return least
}

// CheckSource reports that there is not exactly one source of keys. The field of the error is the source that is too many, or empty.
func (r *Rules) CheckSource() error {
	first := ""
	for _, source := range []struct{ name, value string }{
		{"jwks_file", r.JWKSFile}, {"jwks_url", r.JWKSURL}, {"hmac_secret_file", r.HMACSecretFile},
	} {
		switch {
		case source.value == "":
		case first == "":
			first = source.name
		default:
			return invalid(source.name, "", "must not stand beside "+first+": the keys have one source")
		}
	}
	if first == "" {
		return invalid("", "", "must have one of jwks_file, jwks_url and hmac_secret_file")
	}
	return nil
}

// CheckAlgorithm returns an error for an algorithm that cannot be accepted, or that does not fit the source of the keys.
func (r *Rules) CheckAlgorithm(name string) error {
	value := strconv.Quote(name)
	switch {
	case strings.EqualFold(name, "none"):
		return invalid("", value, "is never accepted: such a token is not signed")
	case !slices.Contains(Algorithms(), name):
		return invalid("", value, "must be one of "+strings.Join(Algorithms(), ", "))
	case r.HMACSecretFile == "" && slices.Contains(secretAlgorithms, name):
		return invalid("", value, "needs hmac_secret_file: the keys of a key set are public, and anyone could sign with them")
	case r.HMACSecretFile != "" && slices.Contains(keySetAlgorithms, name):
		return invalid("", value, "needs a key set, jwks_file or jwks_url: a secret verifies "+strings.Join(secretAlgorithms, ", "))
	}
	return nil
}

// CheckHeader returns an error for what is no name of a header.
func CheckHeader(name string) error {
	if (clientkey.Source{Kind: clientkey.SourceHeader, Name: strings.ToLower(name)}).Valid() {
		return nil
	}
	return invalid("", strconv.Quote(name), "must be a header's name, of letters, digits and hyphens")
}

// CheckURL returns an error for what is no URL of a key set.
func CheckURL(s string) error {
	const rule = "must be a URL, such as https://id.example.com/.well-known/jwks.json"
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return invalid("", "", rule)
	case u.User != nil:
		return invalid("", "", "must have no user and password")
	case u.Fragment != "":
		return invalid("", "", "must have no part after a #")
	}
	return nil
}

// CheckText returns an error for an empty text.
func CheckText(s string) error {
	if s == "" {
		return invalid("", `""`, "must not be empty")
	}
	return nil
}

// ParseLeeway reads a leeway.
func ParseLeeway(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > MaxLeeway {
		return 0, invalid("", strconv.Quote(s), "must be a duration from 0s to 10m, such as 30s")
	}
	return d, nil
}

func invalid(field, value, reason string) *domain.FieldError {
	return &domain.FieldError{Kind: domain.ErrInvalidPolicy, Field: field, Value: value, Reason: reason}
}
