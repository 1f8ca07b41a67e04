package jwtclaims

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

const (
	// maxKeys is the most keys of a set.
	maxKeys = 64
	// maxTried is how many keys a token without kid may fit: each is tried.
	maxTried = 8
	// minRSABits is the shortest RSA key that RFC 7518 allows.
	minRSABits = 2048
)

// keySet holds the keys that verify tokens. It is immutable.
type keySet struct {
	secret []byte          // nil for public keys
	public keyfunc.Keyfunc // nil for a secret
	// ids are the names of the public keys by kid: each is made of the key's content.
	ids map[string]string
	// known are the names.
	known map[string]bool
	// digest distinguishes sets of different keys.
	digest string
}

// newSecret returns the set of one secret, of at least so many bytes.
func newSecret(data []byte, least int) (*keySet, error) {
	secret := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if len(secret) < least {
		return nil, fmt.Errorf("the secret has %d bytes: it must have at least %d, as the digests of its algorithms (RFC 7518, section 3.2)", len(secret), least)
	}
	if isPublic(data) {
		return nil, errors.New("this is a key set or a public key, and no secret: name a key set in jwks_file")
	}
	return &keySet{secret: []byte(secret), digest: digest([]byte(secret))}, nil
}

// isPublic reports whether data has the form of a public key, which everyone may read: PEM, a JWKS, or one key of it.
func isPublic(data []byte) bool {
	var written struct {
		Keys json.RawMessage `json:"keys"`
		Type json.RawMessage `json:"kty"`
	}
	isJSON := json.Unmarshal(data, &written) == nil
	return bytes.Contains(data, []byte("-----BEGIN")) || isJSON && (written.Keys != nil || written.Type != nil)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// parseKeySet reads a JWKS. Keys that can verify no signature are left out; it is an error if no other is there.
func parseKeySet(data []byte) (*keySet, error) {
	var written jwkset.JWKSMarshal
	if err := json.Unmarshal(data, &written); err != nil {
		return nil, errors.New("is no key set (JWKS): it is not JSON, or not of the form {\"keys\": [...]}")
	}
	if len(written.Keys) > maxKeys {
		return nil, fmt.Errorf("has %d keys: it must have at most %d", len(written.Keys), maxKeys)
	}
	set := &keySet{ids: map[string]string{}, known: map[string]bool{}}
	storage := jwkset.NewMemoryStorage()
	var all strings.Builder
	var whyNot error
	for _, one := range written.Keys {
		key, err := verificationKey(one)
		if err != nil {
			whyNot = err
			continue
		}
		if err := storage.KeyWrite(context.Background(), key); err != nil {
			return nil, err
		}
		content, err := json.Marshal(key.Marshal())
		if err != nil {
			return nil, err
		}
		id := digest(content)
		if _, twice := set.ids[one.KID]; !twice { // the storage finds the first
			set.ids[one.KID], set.known[id] = id, true
		}
		all.WriteString(id)
	}
	if all.Len() == 0 {
		return nil, errors.Join(errors.New("has no key that verifies signatures"), whyNot)
	}
	set.digest = digest([]byte(all.String()))
	var err error
	set.public, err = keyfunc.New(keyfunc.Options{Storage: storage})
	return set, err
}

// verificationKey returns a public key that verifies signatures.
func verificationKey(one jwkset.JWKMarshal) (jwkset.JWK, error) {
	verifies := len(one.KEYOPS) == 0
	for _, op := range one.KEYOPS {
		verifies = verifies || op == jwkset.KeyOpsVerify
	}
	switch {
	case one.KTY == jwkset.KtyOct:
		return jwkset.JWK{}, errors.New("a secret (oct) has no place in a key set: use hmac_secret_file")
	case one.USE != "" && one.USE != jwkset.UseSig, !verifies:
		return jwkset.JWK{}, errors.New("a key is for another use than signatures")
	}
	one.X5U, one.X5C, one.X5T, one.X5TS256 = "", nil, "", "" // certificates say nothing here, and nothing is fetched
	key, err := jwkset.NewJWKFromMarshal(one, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return key, err
	}
	if public, isRSA := key.Key().(*rsa.PublicKey); isRSA && public.N.BitLen() < minRSABits {
		return key, fmt.Errorf("an RSA key has %d bits: it must have at least %d", public.N.BitLen(), minRSABits)
	}
	return key, nil
}

// has reports whether the key of a name is in the set.
func (s *keySet) has(id string) bool { return s.known[id] }

// Errors of find, by which a Reason is chosen.
var (
	errUnknownKey = errors.New("the key is not in the set")
	errAlgorithm  = errors.New("the algorithm is not that of the key")
)

// find returns the key of a token, or the keys that it may be signed with. id names the key; it is empty if the token does not say
// which one it is.
func (s *keySet) find(token *jwt.Token) (key any, id string, err error) {
	if s.secret != nil {
		return s.secret, "", nil
	}
	key, err = s.public.Keyfunc(token)
	switch {
	case errors.Is(err, jwkset.ErrKeyNotFound):
		return nil, "", errUnknownKey
	case err != nil:
		return nil, "", errAlgorithm
	}
	algorithm := token.Method.Alg()
	if several, ok := key.(jwt.VerificationKeySet); ok {
		var fitting jwt.VerificationKeySet
		for _, one := range several.Keys {
			if fits(algorithm, one) {
				fitting.Keys = append(fitting.Keys, one)
			}
		}
		if n := len(fitting.Keys); n == 0 || n > maxTried {
			return nil, "", errUnknownKey
		}
		return fitting, "", nil
	}
	if !fits(algorithm, key) {
		return nil, "", errAlgorithm
	}
	kid, _ := token.Header["kid"].(string)
	return key, s.ids[kid], nil
}

// fits reports whether a key is one of the algorithm: ES256 needs a key on the curve P-256.
func fits(algorithm string, key any) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		return algorithm == "ES256" && key.Curve == elliptic.P256() || algorithm == "ES384" && key.Curve == elliptic.P384() ||
			algorithm == "ES512" && key.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	default:
		return false
	}
}
