package jwtclaims_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/token"
)

// attack is a request whose token must not be believed.
type attack struct {
	header header
	reason string
}

func one(text, reason string) attack { return attack{header{"Bearer " + text}, reason} }

const future, past = "4102444800", "1000000000"

// TestClaims_attacksAreAbsent: none of these tokens is believed, and each is counted once by its reason.
func TestClaims_attacksAreAbsent(t *testing.T) {
	rules := token.Rules{Issuer: "https://id.example.com", Audience: []string{"api", "web"}}
	v := newVerifier(t, rules)
	good := signRaw(t, jwt.SigningMethodRS256, issuerKeys().rsa, `{"alg":"RS256","kid":"rsa"}`, claimsWith("", ""))
	believed, reason := reasonOf(v, header{"Bearer " + good})
	require.True(t, believed, reason)

	all := map[string]attack{}
	for _, family := range []map[string]attack{
		algorithmAttacks(t), keyAttacks(t), headerAttacks(t), claimAttacks(t), spellingAttacks(t, good), headerLineAttacks(good),
	} {
		for name := range family {
			require.NotContains(t, all, name)
		}
		maps.Copy(all, family)
	}
	require.Greater(t, len(all), 80)
	for _, again := range []string{"", " again"} { // what is cached must not be believed either
		for _, name := range slices.Sorted(maps.Keys(all)) {
			believed, reason := reasonOf(v, all[name].header)
			assert.False(t, believed, name+again)
			assert.Equal(t, all[name].reason, reason, name+again)
		}
	}
}

// claimsWith returns good claims, in which the JSON of one is replaced.
func claimsWith(name, value string) string {
	parts := map[string]string{"sub": `"alice"`, "iss": `"https://id.example.com"`, "aud": `"api"`, "exp": future}
	if name != "" {
		parts[name] = value
	}
	var members []string
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		if parts[name] != "" {
			members = append(members, fmt.Sprintf("%q:%s", name, parts[name]))
		}
	}
	return "{" + strings.Join(members, ",") + "}"
}

// algorithmAttacks use an algorithm that is not that of the key.
func algorithmAttacks(t *testing.T) map[string]attack {
	k, all := issuerKeys(), map[string]attack{}
	for _, none := range []string{"none", "None", "NONE", "nOnE", " none", ""} {
		unsigned := b64(`{"alg":"`+none+`","kid":"rsa"}`) + "." + b64(claimsWith("", "")) + "."
		all["alg "+none+", unsigned"] = one(unsigned, "algorithm")
		all["alg "+none+", with a signature"] = one(unsigned+b64("signature"), "algorithm")
	}
	for _, name := range []string{"rs256", "Rs256", "RS-256", "RS256 ", "HS256", "RS1", "ES256K", "EdDSA25519", "dir", "RSA-OAEP"} {
		text := b64(`{"alg":"`+name+`","kid":"rsa"}`) + "." + b64(claimsWith("", ""))
		signature, err := jwt.SigningMethodRS256.Sign(text, k.rsa)
		require.NoError(t, err)
		all["alg "+name+", signed by RS256"] = one(text+"."+b64(string(signature)), "algorithm")
	}
	der, err := x509.MarshalPKIXPublicKey(k.rsa.Public())
	require.NoError(t, err)
	jwks, err := json.Marshal(jwk(t, "rsa", k.rsa.Public()))
	require.NoError(t, err)
	for name, secret := range map[string][]byte{
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "DER": der, "PKCS 1": x509.MarshalPKCS1PublicKey(&k.rsa.PublicKey),
		"modulus": k.rsa.N.Bytes(), "JWK": jwks, "an empty secret": {},
	} {
		for _, method := range []jwt.SigningMethod{jwt.SigningMethodHS256, jwt.SigningMethodHS384, jwt.SigningMethodHS512} {
			all[method.Alg()+" with the public key as the secret: "+name] = one(signRaw(t, method, secret, `{"alg":"`+method.Alg()+`","kid":"rsa"}`, claimsWith("", "")), "algorithm")
		}
	}
	all["RS512, which is not listed"] = one(signRaw(t, jwt.SigningMethodRS512, k.rsa, `{"alg":"RS512","kid":"rsa"}`, claimsWith("", "")), "algorithm")
	all["PS256, which is not listed"] = one(signRaw(t, jwt.SigningMethodPS256, k.rsa, `{"alg":"PS256","kid":"rsa"}`, claimsWith("", "")), "algorithm")
	all["ES384, which is not listed"] = one(signRaw(t, jwt.SigningMethodES384, k.p384, `{"alg":"ES384","kid":"p384"}`, claimsWith("", "")), "algorithm")
	all["alg is missing"] = one(signRaw(t, jwt.SigningMethodRS256, k.rsa, `{"kid":"rsa"}`, claimsWith("", "")), "algorithm")
	all["alg is a number"] = one(signRaw(t, jwt.SigningMethodRS256, k.rsa, `{"alg":256,"kid":"rsa"}`, claimsWith("", "")), "malformed")
	all["alg is a list"] = one(signRaw(t, jwt.SigningMethodRS256, k.rsa, `{"alg":["RS256"],"kid":"rsa"}`, claimsWith("", "")), "malformed")
	return all
}

// keyAttacks are signed by another key than they say, or make the verifier use another.
func keyAttacks(t *testing.T) map[string]attack {
	k, claims := issuerKeys(), claimsWith("", "")
	own, err := json.Marshal(jwk(t, "own", k.otherRSA.Public()))
	require.NoError(t, err)
	all := map[string]attack{
		"another RSA key":                      one(signRaw(t, jwt.SigningMethodRS256, k.otherRSA, `{"alg":"RS256","kid":"rsa"}`, claims), "signature"),
		"another RSA key, without kid":         one(signRaw(t, jwt.SigningMethodRS256, k.otherRSA, `{"alg":"RS256"}`, claims), "signature"),
		"RS256 by a short key":                 one(signRaw(t, jwt.SigningMethodRS256, k.shortRSA, `{"alg":"RS256","kid":"rsa"}`, claims), "signature"),
		"ES256 by a key on P-384":              one(b64(`{"alg":"ES256","kid":"p384"}`)+"."+b64(claims)+"."+b64(strings.Repeat("\x01", 64)), "algorithm"),
		"ES256 by a key on P-384, 96 bytes":    one(b64(`{"alg":"ES256","kid":"p384"}`)+"."+b64(claims)+"."+b64(strings.Repeat("\x01", 96)), "algorithm"),
		"ES256 with r and s of zero":           one(b64(`{"alg":"ES256","kid":"p256"}`)+"."+b64(claims)+"."+b64(strings.Repeat("\x00", 64)), "signature"),
		"ES256 with no kid, r and s of zero":   one(b64(`{"alg":"ES256"}`)+"."+b64(claims)+"."+b64(strings.Repeat("\x00", 64)), "signature"),
		"EdDSA with the RSA key's kid":         one(signRaw(t, jwt.SigningMethodEdDSA, k.ed, `{"alg":"EdDSA","kid":"rsa"}`, claims), "algorithm"),
		"EdDSA with the P-256 key's kid":       one(signRaw(t, jwt.SigningMethodEdDSA, k.ed, `{"alg":"EdDSA","kid":"p256"}`, claims), "algorithm"),
		"RS256 with the Ed25519 key's kid":     one(signRaw(t, jwt.SigningMethodRS256, k.rsa, `{"alg":"RS256","kid":"ed"}`, claims), "algorithm"),
		"ES256 with the Ed25519 key's kid":     one(signRaw(t, jwt.SigningMethodES256, k.p256, `{"alg":"ES256","kid":"ed"}`, claims), "algorithm"),
		"EdDSA of zeros":                       one(b64(`{"alg":"EdDSA","kid":"ed"}`)+"."+b64(claims)+"."+b64(strings.Repeat("\x00", 64)), "signature"),
		"the embedded jwk":                     one(signRaw(t, jwt.SigningMethodRS256, k.otherRSA, `{"alg":"RS256","kid":"rsa","jwk":`+string(own)+`}`, claims), "signature"),
		"the embedded jwk, whose kid is named": one(signRaw(t, jwt.SigningMethodRS256, k.otherRSA, `{"alg":"RS256","kid":"own","jwk":`+string(own)+`}`, claims), "unknown_key"),
		"a kid that no key has":                one(signRaw(t, jwt.SigningMethodRS256, k.rsa, `{"alg":"RS256","kid":"other"}`, claims), "unknown_key"),
		"an empty kid":                         one(signRaw(t, jwt.SigningMethodRS256, k.rsa, `{"alg":"RS256","kid":""}`, claims), "unknown_key"),
		"a kid that is a number":               one(signRaw(t, jwt.SigningMethodRS256, k.rsa, `{"alg":"RS256","kid":1}`, claims), "malformed"),
		"a kid that is nothing":                one(signRaw(t, jwt.SigningMethodRS256, k.rsa, `{"alg":"RS256","kid":null}`, claims), "malformed"),
	}
	for _, kid := range []string{"../../../../dev/null", "/dev/null", "rsa' OR '1'='1", "rsa; ls", "http://169.254.169.254/", `rsa\u0000`, "${rsa}", "RSA"} {
		all["the kid "+kid] = one(signRaw(t, jwt.SigningMethodRS256, k.rsa, `{"alg":"RS256","kid":"`+kid+`"}`, claims), "unknown_key")
	}
	for _, url := range []string{"jku", "x5u"} {
		all[url+" of a key of one's own"] = one(signRaw(t, jwt.SigningMethodRS256, k.otherRSA, `{"alg":"RS256","kid":"rsa","`+url+`":"http://127.0.0.1:1/keys"}`, claims), "signature")
	}
	all["x5c of a key of one's own"] = one(signRaw(t, jwt.SigningMethodRS256, k.otherRSA, `{"alg":"RS256","kid":"rsa","x5c":["MIIB"]}`, claims), "signature")
	return all
}

// headerAttacks have a header that parsers may read in different ways, or that must be understood.
func headerAttacks(t *testing.T) map[string]attack {
	k, claims := issuerKeys(), claimsWith("", "")
	all := map[string]attack{}
	for name, header := range map[string]string{
		"crit of b64":                  `{"alg":"RS256","kid":"rsa","crit":["b64"],"b64":false}`,
		"crit of an unknown extension": `{"alg":"RS256","kid":"rsa","crit":["exp"],"exp":1}`,
		"an empty crit":                `{"alg":"RS256","kid":"rsa","crit":[]}`,
		"alg twice":                    `{"alg":"none","kid":"rsa","alg":"RS256"}`,
		"alg twice, the other order":   `{"alg":"RS256","kid":"rsa","alg":"none"}`,
		"alg twice, one escaped":       `{"alg":"RS256","kid":"rsa","\u0061lg":"none"}`,
		"kid twice":                    `{"alg":"RS256","kid":"p256","kid":"rsa"}`,
		"a list as the header":         `["RS256"]`,
		"a text as the header":         `"RS256"`,
		"null as the header":           `null`,
		"an empty header":              ``,
		"a header that is cut off":     `{"alg":"RS256","kid":"rsa"`,
		"data after the header":        `{"alg":"RS256","kid":"rsa"}{}`,
		"a header with a comment":      `{"alg":"RS256","kid":"rsa"/**/}`,
		"a header not in UTF-8":        "{\"alg\":\"RS256\",\"kid\":\"rsa\",\"a\":\"\xff\"}",
		"a header with half a pair":    `{"alg":"RS256","kid":"rsa","a":"\ud800"}`,
		"a header with a NUL":          "{\"alg\":\"RS256\",\"kid\":\"rsa\"\x00}",
		"a header with a BOM":          "\ufeff{\"alg\":\"RS256\",\"kid\":\"rsa\"}",
	} {
		all[name] = one(signRaw(t, jwt.SigningMethodRS256, k.rsa, header, claims), "malformed")
	}
	all["ALG in upper case"] = one(signRaw(t, jwt.SigningMethodRS256, k.rsa, `{"ALG":"RS256","kid":"rsa"}`, claims), "algorithm")
	return all
}

// claimAttacks are signed by the issuer, and are not for here or for now.
func claimAttacks(t *testing.T) map[string]attack {
	k, all := issuerKeys(), map[string]attack{}
	add := func(name, claims, reason string) {
		all[name] = one(signRaw(t, jwt.SigningMethodRS256, k.rsa, `{"alg":"RS256","kid":"rsa"}`, claims), reason)
	}
	for _, c := range []struct{ name, claim, value, reason string }{
		{"expired", "exp", past, "expired"},
		{"expired this second", "exp", fmt.Sprint(time.Now().Unix()), "expired"},
		{"exp of zero", "exp", "0", "expired"},
		{"exp below zero", "exp", "-" + future, "malformed"},
		{"exp as a text", "exp", `"` + future + `"`, "malformed"},
		{"exp as a list", "exp", "[" + future + "]", "malformed"},
		{"exp as nothing", "exp", "null", "malformed"},
		{"exp as a truth", "exp", "true", "malformed"},
		{"exp beyond int64", "exp", "9223372036854775808", "malformed"},
		{"exp that wraps around", "exp", "18446744073709551616", "malformed"},
		{"exp in milliseconds", "exp", "4102444800000", "malformed"},
		{"exp of 1e999", "exp", "1e999", "malformed"},
		{"exp of 1e300", "exp", "1e300", "malformed"},
		{"nbf in the future", "nbf", future, "not_yet_valid"},
		{"nbf as a text", "nbf", `"0"`, "malformed"},
		{"nbf of 1e300", "nbf", "1e300", "malformed"},
		{"another issuer", "iss", `"https://evil.example.com"`, "issuer"},
		{"the issuer with a slash", "iss", `"https://id.example.com/"`, "issuer"},
		{"the issuer in upper case", "iss", `"HTTPS://ID.EXAMPLE.COM"`, "issuer"},
		{"the issuer in a list", "iss", `["https://id.example.com"]`, "malformed"},
		{"no issuer", "iss", "", "issuer"},
		{"another audience", "aud", `"other"`, "audience"},
		{"other audiences", "aud", `["other","apis"]`, "audience"},
		{"no audience", "aud", "", "audience"},
		{"an empty audience", "aud", `""`, "audience"},
		{"audiences with a number", "aud", `["api",1]`, "malformed"},
		{"an audience in an object", "aud", `{"api":true}`, "malformed"},
	} {
		add(c.name, claimsWith(c.claim, c.value), c.reason)
	}
	add("sub twice", `{"sub":"alice",`+claimsWith("", "")[1:], "malformed")
	add("exp twice", `{"exp":`+future+`,`+claimsWith("exp", past)[1:], "malformed")
	add("a member twice, deep inside", claimsWith("a", `{"b":{"plan":"free","plan":"pro"}}`), "malformed")
	add("data after the claims", claimsWith("", "")+"{}", "malformed")
	add("claims that are cut off", strings.TrimSuffix(claimsWith("", ""), "}"), "malformed")
	add("claims that are a list", "["+claimsWith("", "")+"]", "malformed")
	add("claims that are null", "null", "malformed")
	add("no claims", "", "malformed")
	add("claims not in UTF-8", claimsWith("a", "\"\xff\""), "malformed")
	add("claims with a NUL", claimsWith("", "")+"\x00", "malformed")
	add("claims that nest deep", claimsWith("a", strings.Repeat(`{"a":`, 100)+"1"+strings.Repeat("}", 100)), "malformed")
	add("a token in a token", sign(t, jwt.SigningMethodRS256, "rsa", k.rsa, subject(nil)), "malformed")
	add("a long token", claimsWith("a", `"`+strings.Repeat("a", 8000)+`"`), "too_long")
	return all
}

// spellingAttacks are the good token in other spellings, and what is no token.
func spellingAttacks(t *testing.T, good string) map[string]attack {
	parts := strings.Split(good, ".")
	all := map[string]attack{
		"padding":                    one(parts[0]+"=."+parts[1]+"."+parts[2]+"==", "malformed"),
		"only padding more":          one(good+"==", "malformed"),
		"base64 that is not for URL": one(parts[0]+"."+parts[1]+"."+parts[2][:4]+"+/"+parts[2][6:], "malformed"),
		"without the signature":      one(parts[0]+"."+parts[1]+".", "signature"),
		"without the last dot":       one(parts[0]+"."+parts[1], "malformed"),
		"a fourth part":              one(good+".a", "malformed"),
		"a dot at the end":           one(good+".", "malformed"),
		"a dot at the start":         one("."+good, "malformed"),
		"only dots":                  one("..", "malformed"),
		"five parts, as of a JWE":    one(b64(`{"alg":"RSA-OAEP","enc":"A256GCM"}`)+".YQ.YQ.YQ.YQ", "malformed"),
		"a changed claim":            one(parts[0]+"."+b64(claimsWith("sub", `"mallory"`))+"."+parts[2], "signature"),
		"a changed header":           one(b64(`{"kid":"rsa","alg":"RS256"}`)+"."+parts[1]+"."+parts[2], "signature"),
		"a cut signature":            one(good[:len(good)-2], "signature"),
		"a longer signature":         one(good+"AAAA", "signature"),
		"no JWT":                     one("0123456789abcdef", "malformed"),
		"JSON serialization":         one(`{"payload":"`+parts[1]+`","protected":"`+parts[0]+`","signature":"`+parts[2]+`"}`, "twice"),
		"1 MiB":                      one(strings.Repeat("a", 1<<20), "too_long"),
		"1 MiB of dots":              one(strings.Repeat(".", 1<<20), "too_long"),
		"1 MiB behind the token":     one(good+strings.Repeat("A", 1<<20), "too_long"),
	}
	// The last character has bits that say nothing, as 256 bytes of a signature leave two of six.
	last := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.IndexByte(last, good[len(good)-1])
	require.Zero(t, i%4)
	all["bits that say nothing"] = one(good[:len(good)-1]+last[i+1:i+2], "malformed")
	for name, c := range map[string]string{"a NUL": "\x00", "a new line": "\n", "a carriage return": "\r", "a tab": "\t", "a space": " ", "U+2024": "․", "a vertical tab": "\v"} {
		all[name+" inside"] = one(good[:10]+c+good[10:], "malformed")
		if name != "a space" && name != "a tab" { // which may stand around it
			all[name+" behind"] = one(good+c, "malformed")
			all[name+" before"] = one(c+good, "malformed")
		}
	}
	return all
}

// headerLineAttacks send the good token in a way that servers may read differently.
func headerLineAttacks(good string) map[string]attack {
	return map[string]attack{
		"two headers":                    {header{"Bearer " + good, "Bearer " + good}, "twice"},
		"two headers, one empty":         {header{"", "Bearer " + good}, "twice"},
		"two headers of two schemes":     {header{"Basic YTpi", "Bearer " + good}, "twice"},
		"two tokens with a comma":        {header{"Bearer " + good + ", Bearer " + good}, "twice"},
		"two tokens with a comma, terse": {header{good + "," + good}, "twice"},
		"two tokens with a space":        {header{good + " " + good}, "malformed"},
		"Bearer twice":                   {header{"Bearer Bearer " + good}, "malformed"},
		"Bearer behind":                  {header{good + " Bearer"}, "malformed"},
		"Bearer alone":                   {header{"Bearer"}, "malformed"},
		"Bearer and a space":             {header{"Bearer "}, "malformed"},
		"a token as Basic":               {header{"Basic " + good}, "malformed"},
		"Bearer with a tab":              {header{"Bearer\t" + good}, "malformed"},
		"Bearer with a colon":            {header{"Bearer: " + good}, "malformed"},
		"quotes":                         {header{`Bearer "` + good + `"`}, "malformed"},
		"an assignment":                  {header{"Bearer token=" + good}, "malformed"},
	}
}

func TestClaims_aSecretVerifiesItsAlgorithmsAlone(t *testing.T) {
	secret := strings.Repeat("s", 32)
	path := filepath.Join(t.TempDir(), "secret")
	writeFile(t, path, []byte(secret+"\n"))
	v := newVerifier(t, token.Rules{HMACSecretFile: path})
	k := issuerKeys()
	for name, c := range map[string]struct {
		text, reason string
	}{
		"right":              {sign(t, jwt.SigningMethodHS256, "", []byte(secret), subject(nil)), ""},
		"whatever kid":       {sign(t, jwt.SigningMethodHS256, "a", []byte(secret), subject(nil)), ""},
		"with the new line":  {sign(t, jwt.SigningMethodHS256, "", []byte(secret+"\n"), subject(nil)), "signature"},
		"another secret":     {sign(t, jwt.SigningMethodHS256, "", []byte("secret"), subject(nil)), "signature"},
		"the secret's path":  {sign(t, jwt.SigningMethodHS256, "", []byte(path), subject(nil)), "signature"},
		"HS512":              {sign(t, jwt.SigningMethodHS512, "", []byte(secret), subject(nil)), "algorithm"},
		"RS256":              {sign(t, jwt.SigningMethodRS256, "", k.rsa, subject(nil)), "algorithm"},
		"none":               {sign(t, jwt.SigningMethodNone, "", jwt.UnsafeAllowNoneSignatureType, subject(nil)), "algorithm"},
		"expired":            {sign(t, jwt.SigningMethodHS256, "", []byte(secret), subject(map[string]any{"exp": 1})), "expired"},
		"an empty signature": {b64(`{"alg":"HS256"}`) + "." + b64(`{"sub":"alice"}`) + ".", "signature"},
	} {
		believed, reason := reasonOf(v, header{c.text})
		assert.Equal(t, c.reason == "", believed, name)
		assert.Equal(t, c.reason, reason, name)
	}
}

func FuzzClaims(f *testing.F) {
	v := newVerifier(f, token.Rules{})
	k := issuerKeys()
	good := sign(f, jwt.SigningMethodES256, "p256", k.p256, subject(nil))
	for _, text := range []string{
		good, "Bearer " + good, good + "." + good, "", "Bearer ", "a.b.c", b64(`{"alg":"none"}`) + "." + b64(`{}`) + ".", good[:len(good)-1],
		sign(f, jwt.SigningMethodEdDSA, "", k.ed, subject(map[string]any{"a": map[string]any{"b": []any{1, "x", true, nil}}})),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		claims := v.Claims(header{text})
		if claims == nil {
			return
		}
		// Whoever has no key can only repeat a token as it is.
		payload := strings.Split(strings.TrimPrefix(strings.TrimSpace(text), "Bearer "), ".")
		require.Len(t, payload, 3, text)
		assert.Equal(t, "alice", claims.Text("sub"))
	})
}
