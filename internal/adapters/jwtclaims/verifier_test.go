package jwtclaims_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/jwtclaims"
	"github.com/velocity-limiter/velocity/internal/domain/token"
)

func TestClaims_believesWhatItsKeysSigned(t *testing.T) {
	v := newVerifier(t, token.Rules{Algorithms: []string{"RS256", "PS384", "ES256", "ES384", "EdDSA"}, Leeway: 30 * time.Second})
	k := issuerKeys()
	rs256 := sign(t, jwt.SigningMethodRS256, "rsa", k.rsa, subject(nil))
	for name, h := range map[string]header{
		"RS256": {rs256}, "with Bearer": {"Bearer " + rs256}, "in lower case": {"bearer " + rs256}, "with spaces": {" Bearer   " + rs256 + " "},
		"PS384":                    {sign(t, jwt.SigningMethodPS384, "rsa", k.rsa, subject(nil))},
		"ES256":                    {sign(t, jwt.SigningMethodES256, "p256", k.p256, subject(nil))},
		"ES384":                    {sign(t, jwt.SigningMethodES384, "p384", k.p384, subject(nil))},
		"EdDSA":                    {sign(t, jwt.SigningMethodEdDSA, "ed", k.ed, subject(nil))},
		"without kid":              {sign(t, jwt.SigningMethodEdDSA, "", k.ed, subject(nil))},
		"without exp":              {sign(t, jwt.SigningMethodES256, "p256", k.p256, jwt.MapClaims{"sub": "alice"})},
		"expired within leeway":    {sign(t, jwt.SigningMethodES256, "p256", k.p256, subject(map[string]any{"exp": time.Now().Add(-20 * time.Second).Unix()}))},
		"nbf within leeway":        {sign(t, jwt.SigningMethodES256, "p256", k.p256, subject(map[string]any{"nbf": time.Now().Add(20 * time.Second).Unix()}))},
		"exp with a fraction":      {sign(t, jwt.SigningMethodES256, "p256", k.p256, subject(map[string]any{"exp": float64(time.Now().Unix()) + 60.5}))},
		"jku, which is not read":   {sign(t, jwt.SigningMethodES256, "p256", k.p256, subject(nil), "jku", "http://127.0.0.1:1/")},
		"typ of an access token":   {sign(t, jwt.SigningMethodES256, "p256", k.p256, subject(nil), "typ", "at+jwt")},
		"any issuer and audience":  {sign(t, jwt.SigningMethodES256, "p256", k.p256, subject(map[string]any{"iss": "x", "aud": "y"}))},
		"a numeric issuer, unused": {sign(t, jwt.SigningMethodES256, "p256", k.p256, subject(map[string]any{"iss": 1}))},
	} {
		for range 2 {
			claims := v.Claims(h)
			require.NotNil(t, claims, name)
			assert.Equal(t, "alice", claims.Text("sub"), name)
		}
	}
	for name, h := range map[string]header{"no header": {}, "an empty one": {""}, "Basic": {"Basic YTpi"}, "Negotiate": {"Negotiate abc"}} {
		believed, reason := reasonOf(v, h)
		assert.False(t, believed, name)
		assert.Empty(t, reason, "%s is no token, and not counted", name)
	}
}

func TestClaims_texts(t *testing.T) {
	v := newVerifier(t, token.Rules{})
	text := signRaw(t, jwt.SigningMethodEdDSA, issuerKeys().ed, `{"alg":"EdDSA","kid":"ed"}`, `{
		"sub": "a\"\u00e9\ud83d\ude00", "n": 1, "exact": 12345678901234567890.1230, "big": 1e400, "yes": true, "no": false, "nothing": null, "empty": "",
		"roles": ["admin", 7, true, null, ["deep"], {"a": 1}, ""], "none": [], "org": {"id": 5, "plan": {"name": "pro", "tags": ["x"]}, "a.b": "inner"},
		"https://example.com/plan": "literal", "org.id": "literal", "https://example.com/app": {"plan": "nested"}, "realm_access": {"roles": ["one"]},
		"bad name": "x", "a.b": {"c": "by two"}, "a": {"b.c": "later", "b": {"c": "by three"}}
	}`)
	claims := v.Claims(header{text})
	require.NotNil(t, claims)
	for name, want := range map[string]string{
		"sub": `a"é😀`, "n": "1", "exact": "12345678901234567890.1230", "big": "1e400", "yes": "true", "no": "false", "nothing": "", "empty": "",
		"roles": "", "none": "", "org": "", "org.plan": "", "org.plan.name": "pro", "org.a.b": "inner", "https://example.com/plan": "literal",
		"org.id": "literal", "https://example.com/app.plan": "nested", "bad name": "", "a.b.c": "by two", "missing": "", "": "", "org.": "", ".id": "", "SUB": "",
	} {
		assert.Equal(t, want, claims.Text(name), name)
	}
	for name, want := range map[string][]string{
		"roles": {"admin", "7", "true"}, "org.plan.tags": {"x"}, "realm_access.roles": {"one"}, "none": nil, "sub": nil, "org": nil, "missing": nil,
	} {
		assert.Equal(t, want, claims.Elements(name), name)
	}
}

func TestUse_theHeaderOfTheRules(t *testing.T) {
	good := header{sign(t, jwt.SigningMethodEdDSA, "ed", issuerKeys().ed, subject(nil))}
	for rule, want := range map[string]string{"": "Authorization", "X-Token": "X-Token"} {
		v := newVerifier(t, token.Rules{Header: rule})
		asked := ""
		require.NotNil(t, v.Claims(namedHeader{good, &asked}))
		assert.Equal(t, want, asked)
	}
}

// namedHeader records which field is asked for.
type namedHeader struct {
	header
	asked *string
}

func (h namedHeader) Values(name string) (string, int) {
	*h.asked = name
	return h.header.Values(name)
}

func TestUse_withoutRulesNoTokenIsBelieved(t *testing.T) {
	v := newVerifier(t, token.Rules{})
	good := header{sign(t, jwt.SigningMethodEdDSA, "ed", issuerKeys().ed, subject(nil))}
	require.NotNil(t, v.Claims(good))
	require.NoError(t, v.Use(nil))
	believed, reason := reasonOf(v, good)
	assert.False(t, believed)
	assert.Empty(t, reason)
	loaded, _ := v.Keys()
	assert.True(t, loaded, "none are needed")
}

func TestUse_aFileThatIsNotThereChangesNothing(t *testing.T) {
	v := newVerifier(t, token.Rules{})
	good := header{sign(t, jwt.SigningMethodEdDSA, "ed", issuerKeys().ed, subject(nil))}
	folder := t.TempDir()
	write := func(name string, data []byte) string {
		writeFile(t, filepath.Join(folder, name), data)
		return filepath.Join(folder, name)
	}
	k := issuerKeys()
	for want, rules := range map[string]token.Rules{
		"no such file or directory":                   {JWKSFile: filepath.Join(folder, "none.json")},
		"is no key set":                               {JWKSFile: write("text", []byte("keys"))},
		"has no key that verifies":                    {JWKSFile: write("empty", []byte(`{"keys":[]}`))},
		"has no key that verifies signatures":         {JWKSFile: write("other", []byte(`{"issuer":"a"}`))},
		"larger than 1048576 bytes":                   {JWKSFile: write("large", bytes.Repeat([]byte(" "), 1<<20+1))},
		"is for another use":                          {JWKSFile: write("enc", keySetJSON(t, jwk(t, "a", k.rsa.Public(), func(m *jwkset.JWKMarshal) { m.USE = jwkset.UseEnc })))},
		"an RSA key has 1024 bits":                    {JWKSFile: write("short", keySetJSON(t, jwk(t, "a", k.shortRSA.Public())))},
		"a secret (oct) has no place":                 {JWKSFile: write("oct", []byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U"}]}`))},
		"has 65 keys":                                 {JWKSFile: write("many", keySetJSON(t, make([]jwkset.JWKMarshal, 65)...))},
		"the secret has 6 bytes: it must have at":     {HMACSecretFile: write("secret", []byte("secret\n"))},
		"the secret has 32 bytes: it must have at le": {HMACSecretFile: write("secret32", []byte(strings.Repeat("s", 32))), Algorithms: []string{"HS256", "HS512"}},
	} {
		err := v.Use(&rules)
		require.ErrorContains(t, err, want)
		var failed *jwtclaims.KeysError
		require.ErrorAs(t, err, &failed)
		require.NotNil(t, v.Claims(good), "the rules before stay")
	}
}

func TestUse_otherRulesOfTheSameKeysFetchNothing(t *testing.T) {
	k := issuerKeys()
	synctest.Test(t, func(t *testing.T) {
		v := jwtclaims.New(zap.NewNop())
		id := newIssuer(func() (int, string, error) { return 200, string(issuerSet(t)), nil })
		v.FetchBy(id)
		defer func() { require.NoError(t, v.Close()) }()
		require.NoError(t, v.Use(&token.Rules{JWKSURL: keysURL}))
		synctest.Wait()
		good := header{sign(t, jwt.SigningMethodEdDSA, "ed", k.ed, subject(map[string]any{"iss": "a"}))}
		require.NotNil(t, v.Claims(good))
		require.NoError(t, v.Use(&token.Rules{JWKSURL: keysURL}))
		cached, _, _, _ := v.Cached()
		assert.Equal(t, 1, cached, "the same rules keep the results")
		require.NoError(t, v.Use(&token.Rules{JWKSURL: keysURL, Issuer: "b"}))
		_, reason := reasonOf(v, good)
		assert.Equal(t, "issuer", reason, "other rules are in force at once")
		require.NoError(t, v.Use(&token.Rules{JWKSURL: keysURL, Issuer: "a"}))
		require.NotNil(t, v.Claims(good))
		assert.EqualValues(t, 1, id.fetches.Load())
		require.NoError(t, v.Use(&token.Rules{JWKSURL: "https://other.example.com/", Issuer: "a"}))
		require.NotNil(t, v.Claims(good), "keys at another place are fetched before they are in force")
		synctest.Wait()
		assert.EqualValues(t, 2, id.fetches.Load())
	})
}

func TestUse_rulesThatComeLaterWaitForTheirKeys(t *testing.T) {
	k := issuerKeys()
	synctest.Test(t, func(t *testing.T) {
		v := jwtclaims.New(zap.NewNop())
		id := newIssuer(func() (int, string, error) { return 200, string(issuerSet(t)), nil })
		v.FetchBy(id)
		defer func() { require.NoError(t, v.Close()) }()
		require.NoError(t, v.Use(nil))
		time.Sleep(time.Minute)
		require.NoError(t, v.Use(&token.Rules{JWKSURL: keysURL}))
		require.NotNil(t, v.Claims(header{sign(t, jwt.SigningMethodEdDSA, "ed", k.ed, subject(nil))}))
		id.set(func() (int, string, error) { return 500, "", nil })
		require.NoError(t, v.Use(&token.Rules{JWKSURL: "https://other.example.com/"}), "a server that is away is no mistake of the file")
		loaded, starting := v.Keys()
		assert.False(t, loaded)
		assert.False(t, starting, "a node that serves must not become unready")
	})
}

func TestClaims_resultsAreKeptUntilTheyAreOld(t *testing.T) {
	k := issuerKeys()
	synctest.Test(t, func(t *testing.T) {
		v := jwtclaims.New(zap.NewNop())
		v.FetchBy(newIssuer(func() (int, string, error) { return 200, string(issuerSet(t)), nil }))
		defer func() { require.NoError(t, v.Close()) }()
		require.NoError(t, v.Use(&token.Rules{JWKSURL: keysURL, Leeway: 5 * time.Second}))
		synctest.Wait()
		in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
		short := header{sign(t, jwt.SigningMethodEdDSA, "ed", k.ed, subject(map[string]any{"exp": in(time.Minute)}))}
		later := header{sign(t, jwt.SigningMethodEdDSA, "ed", k.ed, subject(map[string]any{"nbf": in(30 * time.Second)}))}
		noExp := header{sign(t, jwt.SigningMethodEdDSA, "ed", k.ed, jwt.MapClaims{"sub": "alice"})}
		require.NotNil(t, v.Claims(short))
		require.NotNil(t, v.Claims(noExp))
		_, reason := reasonOf(v, later)
		assert.Equal(t, "not_yet_valid", reason)
		time.Sleep(26 * time.Second)
		require.NotNil(t, v.Claims(later), "its time has come, with the leeway")
		time.Sleep(38 * time.Second)
		require.NotNil(t, v.Claims(short), "within the leeway")
		time.Sleep(time.Second)
		for range 2 {
			_, reason = reasonOf(v, short)
			assert.Equal(t, "expired", reason)
		}
		time.Sleep(time.Hour)
		require.NotNil(t, v.Claims(noExp), "verified again")
	})
}

func TestClaims_forgedTokensDropNoGoodOnes(t *testing.T) {
	v := newVerifier(t, token.Rules{})
	k := issuerKeys()
	var good []header
	for i := range 100 {
		good = append(good, header{sign(t, jwt.SigningMethodEdDSA, "ed", k.ed, subject(map[string]any{"n": i}))})
		require.NotNil(t, v.Claims(good[i]))
	}
	parts := strings.Split(good[0][0], ".")
	signature := b64(strings.Repeat("\x01", 64))
	for i := range 8_000 { // more than BadBytes
		require.Nil(t, v.Claims(header{parts[0] + "." + b64(fmt.Sprintf(`{"sub":"mallory","n":%d}`, i)) + "." + signature}))
	}
	for i := range 500 {
		require.Nil(t, v.Claims(header{fmt.Sprintf("%d.%s", i, strings.Repeat("a", 8000))}))
	}
	cached, rejected, goodWeight, badWeight := v.Cached()
	assert.Equal(t, 100, cached)
	assert.Less(t, rejected, 7_000)
	assert.LessOrEqual(t, badWeight, uint64(jwtclaims.BadBytes))
	assert.LessOrEqual(t, goodWeight, uint64(jwtclaims.GoodBytes))
	assert.EqualValues(t, 8_000, v.Rejected(jwtclaims.Signature))
}

// reused is a header whose memory is used again, as that of a server.
type reused struct{ line []byte }

func (h *reused) Values(string) (string, int)  { return unsafe.String(&h.line[0], len(h.line)), 1 }
func (h *reused) Cookies(string) (string, int) { return "", 0 }

func TestClaims_copiesTheTokenThatItCaches(t *testing.T) {
	v := newVerifier(t, token.Rules{})
	k := issuerKeys()
	first := sign(t, jwt.SigningMethodEdDSA, "ed", k.ed, subject(map[string]any{"sub": "alice"}))
	second := sign(t, jwt.SigningMethodEdDSA, "ed", k.ed, subject(map[string]any{"sub": "bobby"}))
	require.Len(t, second, len(first))
	h := &reused{[]byte(first)}
	claims := v.Claims(h)
	copy(h.line, second)
	assert.True(t, v.Known(first))
	assert.False(t, v.Known(second))
	assert.Equal(t, "bobby", v.Claims(h).Text("sub"))
	assert.Equal(t, "alice", claims.Text("sub"))
	copy(h.line, first)
	assert.Equal(t, "alice", v.Claims(h).Text("sub"))
}

// Of a token that is known, of a new one, and of a new one in the library alone.
func BenchmarkClaims(b *testing.B) {
	k := issuerKeys()
	many := map[string]any{"iss": "https://id.example.com", "aud": "api", "scope": "openid profile email", "name": "Alice Example", "email": "alice@example.com", "roles": []string{"a", "b", "c"}}
	for name, of := range map[string]struct {
		text string
		key  any
	}{
		"RS256": {sign(b, jwt.SigningMethodRS256, "rsa", k.rsa, subject(many)), k.rsa.Public()},
		"ES256": {sign(b, jwt.SigningMethodES256, "p256", k.p256, subject(many)), k.p256.Public()},
		"EdDSA": {sign(b, jwt.SigningMethodEdDSA, "ed", k.ed, subject(many)), k.ed.Public()},
	} {
		v := newVerifier(b, token.Rules{})
		h := &reused{[]byte("Bearer " + of.text)}
		b.Run("cached_"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v.Claims(h).Text("sub") != "alice" {
					b.Fatal("not verified")
				}
			}
		})
		b.Run("new_"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if reason := v.VerifyNew(of.text); reason != 0 {
					b.Fatal(reason)
				}
			}
		})
		b.Run("library_"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := jwt.Parse(of.text, func(*jwt.Token) (any, error) { return of.key, nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
