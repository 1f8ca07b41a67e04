package jwtclaims_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/jwtclaims"
	"github.com/velocity-limiter/velocity/internal/domain/token"
)

// keys are the private keys of the issuer, and one that is not its own.
type keys struct {
	rsa, otherRSA, shortRSA *rsa.PrivateKey
	p256, p384              *ecdsa.PrivateKey
	ed                      ed25519.PrivateKey
}

// issuerKeys are made once, since RSA keys take long to make.
var issuerKeys = sync.OnceValue(func() keys {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var k keys
	var err error
	for _, one := range []struct {
		into **rsa.PrivateKey
		bits int
	}{{&k.rsa, 2048}, {&k.otherRSA, 2048}, {&k.shortRSA, 1024}} {
		*one.into, err = rsa.GenerateKey(rand.Reader, one.bits)
		must(err)
	}
	k.p256, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	k.p384, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(err)
	_, k.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	return k
})

// jwk describes a public key for a key set.
func jwk(t testing.TB, kid string, key crypto.PublicKey, change ...func(*jwkset.JWKMarshal)) jwkset.JWKMarshal {
	t.Helper()
	one, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid}})
	require.NoError(t, err)
	written := one.Marshal()
	for _, f := range change {
		f(&written)
	}
	return written
}

func keySetJSON(t testing.TB, all ...jwkset.JWKMarshal) []byte {
	t.Helper()
	data, err := json.Marshal(jwkset.JWKSMarshal{Keys: all})
	require.NoError(t, err)
	return data
}

// issuerSet is the key set of the issuer.
func issuerSet(t testing.TB) []byte {
	k := issuerKeys()
	return keySetJSON(t, jwk(t, "rsa", k.rsa.Public()), jwk(t, "p256", k.p256.Public()), jwk(t, "p384", k.p384.Public()), jwk(t, "ed", k.ed.Public()))
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", data, 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// newVerifier returns a verifier by the issuer's key set in a file.
func newVerifier(t testing.TB, rules token.Rules) *jwtclaims.Verifier {
	t.Helper()
	if rules.JWKSFile == "" && rules.JWKSURL == "" && rules.HMACSecretFile == "" {
		rules.JWKSFile = filepath.Join(t.TempDir(), "jwks.json")
		writeFile(t, rules.JWKSFile, issuerSet(t))
	}
	v := jwtclaims.New(zap.NewNop())
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	require.NoError(t, v.Use(&rules))
	return v
}

// header is a request header of one field, whatever its name.
type header []string

// Values implements keyvalue.Header.
func (h header) Values(string) (string, int) {
	if len(h) == 0 {
		return "", 0
	}
	return h[0], len(h)
}

// Cookies implements keyvalue.Header.
func (header) Cookies(string) (string, int) { return "", 0 }

// reasonOf returns the reason that was counted for a request, or "" if none was.
func reasonOf(v *jwtclaims.Verifier, h header) (believed bool, reason string) {
	before := map[jwtclaims.Reason]uint64{}
	for _, r := range jwtclaims.Reasons() {
		before[r] = v.Rejected(r)
	}
	believed = v.Claims(h) != nil
	for _, r := range jwtclaims.Reasons() {
		for range v.Rejected(r) - before[r] {
			reason += r.String()
		}
	}
	return believed, reason
}

// subject is the claims of a good token, with changes.
func subject(changes map[string]any) jwt.MapClaims {
	c := jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(c, changes)
	return c
}

// sign signs claims. The header has kid, unless that is empty.
func sign(t testing.TB, method jwt.SigningMethod, kid string, key any, claims jwt.Claims, header ...string) string {
	t.Helper()
	made := jwt.NewWithClaims(method, claims)
	if kid != "" {
		made.Header["kid"] = kid
	}
	for i := 0; i < len(header); i += 2 {
		made.Header[header[i]] = header[i+1]
	}
	text, err := made.SignedString(key)
	require.NoError(t, err)
	return text
}

// signRaw signs a header and claims as they are written.
func signRaw(t testing.TB, method jwt.SigningMethod, key any, header, claims string) string {
	t.Helper()
	text := b64(header) + "." + b64(claims)
	signature, err := method.Sign(text, key)
	require.NoError(t, err)
	return text + "." + b64(string(signature))
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
