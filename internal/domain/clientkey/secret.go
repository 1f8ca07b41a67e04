package clientkey

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// hmacPrefix starts the text that takes the place of a value of a secret source: "hmac:" and the HMAC-SHA-256 in hexadecimal
// digits, in lower case.
const hmacPrefix = "hmac:"

const listedLength = len(hmacPrefix) + 2*sha256.Size

// MinSecret is the length in bytes of the shortest secret that a [Hasher] takes. With a shorter one, a reader of the HMACs who
// knows one key could find the secret by trying.
const MinSecret = 16

// Hasher replaces the values of secret sources by their HMACs. It is safe for concurrent use.
type Hasher struct {
	macs   sync.Pool // of *mac
	digest string
}

// mac is the memory of one HMAC. A hash.Hash that has been reset keeps the state after the secret, so that a value costs the
// blocks of the value alone, and no allocation.
type mac struct {
	hash.Hash
	value []byte
	sum   [sha256.Size]byte
	text  [listedLength]byte
}

// maxKept is the longest value whose memory is kept for later ones.
const maxKept = 4096

// NewHasher returns the Hasher of a secret, which is copied. The error is a [domain.FieldError] without the secret; its field is
// "secret".
func NewHasher(secret []byte) (*Hasher, error) {
	if len(secret) < MinSecret {
		return nil, &domain.FieldError{
			Kind: domain.ErrInvalidPolicy, Field: "secret", Value: strconv.Itoa(len(secret)) + " bytes",
			Reason: "must have at least " + strconv.Itoa(MinSecret) + " bytes, as random as those of openssl rand -hex 32",
		}
	}
	secret = slices.Clone(secret)
	h := &Hasher{digest: digestOf(secret)}
	h.macs.New = func() any {
		m := &mac{Hash: hmac.New(sha256.New, secret)}
		copy(m.text[:], hmacPrefix)
		return m
	}
	return h, nil
}

// digestOf hashes twice, so that no request can have the digest written as the HMAC of its value.
func digestOf(secret []byte) string {
	derived := hmac.New(sha256.New, secret)
	_, _ = derived.Write([]byte("velocity: digest of the secret of keys"))
	digest := hmac.New(sha256.New, derived.Sum(nil))
	_, _ = digest.Write([]byte("digest"))
	return hex.EncodeToString(digest.Sum(nil)[:4])
}

// Digest is the same for the same secret, and almost certainly another one for another. Its 32 bits are too few to confirm a
// guess of a random secret.
func (h *Hasher) Digest() string { return h.digest }

// Hash returns the text that takes the place of a value.
func (h *Hasher) Hash(value string) string {
	m := h.macs.Get().(*mac)
	m.Reset()
	m.value = append(m.value[:0], value...)
	_, _ = m.Write(m.value) // it never fails
	hex.Encode(m.text[len(hmacPrefix):], m.Sum(m.sum[:0]))
	text := string(m.text[:])
	clear(m.value)
	if cap(m.value) <= maxKept {
		h.macs.Put(m)
	}
	return text
}

// Listed reports whether value has the form in which the value of a secret source is listed: "hmac:" and 64 hexadecimal digits in
// lower case.
func Listed(value string) bool {
	return len(value) == listedLength && strings.HasPrefix(value, hmacPrefix) &&
		strings.Trim(value[len(hmacPrefix):], "0123456789abcdef") == ""
}

// LooksListed reports whether a pattern of clients is written as a client with a secret value is listed, or begins like that.
func LooksListed(pattern string) bool {
	for value := range strings.SplitSeq(pattern, "&") {
		if strings.HasPrefix(value, hmacPrefix) {
			return true
		}
	}
	return false
}

// Secret reports whether the values of the source must not leave the process.
func (s Source) Secret() bool { return s.Hasher != nil }

// Public returns the source without its Hasher, as requests are asked for its value.
func (s Source) Public() Source { return Source{Kind: s.Kind, Name: s.Name} }

// Same reports whether both are the same source, secret or not.
func (s Source) Same(other Source) bool { return s.Public() == other.Public() }

// NewPart returns the part of a key that a request has. Of a secret source, its Value is the HMAC of value, whatever value looks
// like: a client that sends the HMAC of another client's key does not become that client.
func NewPart(source Source, value string) Part {
	if source.Hasher == nil {
		return Part{Source: source, Value: value}
	}
	return Part{Source: source, Value: source.Hasher.Hash(value), raw: value}
}

// ListedPart returns the part of a key that an operator named. Of a secret source, value may be as it is listed; see [Listed].
func ListedPart(source Source, value string) Part {
	value = source.Normalize(value)
	if source.Secret() && Listed(value) {
		return Part{Source: source, Value: value}
	}
	return NewPart(source, value)
}

// RawListValue is [ListValue] with the values that the request has in place of their HMACs. The patterns of a policy are compared
// with it. It reports false if a value is not known, because only its HMAC was given.
func RawListValue(parts []Part) (value string, known bool) {
	if len(parts) == 1 {
		return parts[0].rawValue()
	}
	known = true
	raw := make([]Part, len(parts))
	for i := range parts {
		one, ok := parts[i].rawValue()
		raw[i].Value, known = one, known && ok
	}
	return ListValue(raw), known
}

func (p *Part) rawValue() (value string, known bool) {
	if p.Source.Secret() {
		return p.raw, p.raw != ""
	}
	return p.Value, true
}

// Secret reports whether a source of the key is secret.
func (k Key) Secret() bool { return slices.ContainsFunc(k, Source.Secret) }

// ListedValue returns what [ListValue] returns for the client whose values are value, as [RawListValue] writes them. It reports
// false if value is not the value of such a key.
func (k Key) ListedValue(value string) (listed string, ok bool) {
	values, ok := SplitListValue(value, len(k))
	if !ok {
		return "", false
	}
	parts := make([]Part, len(values))
	for i := range values {
		parts[i] = NewPart(k[i], values[i])
	}
	return ListValue(parts), true
}
