package jwtclaims_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/adapters/jwtclaims"
	"github.com/velocity-limiter/velocity/internal/domain/token"
)

// waitFor waits for a condition. It is for what goroutines do with files and networks.
func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 20*time.Second, 10*time.Millisecond)
}

func TestFile_isFollowed(t *testing.T) {
	core, logged := observer.New(zapcore.InfoLevel)
	path := filepath.Join(t.TempDir(), "jwks.json")
	k := issuerKeys()
	old, both, next := jwk(t, "old", k.p256.Public()), keySetJSON(t, jwk(t, "old", k.p256.Public()), jwk(t, "new", k.ed.Public())), jwk(t, "new", k.ed.Public())
	writeFile(t, path, keySetJSON(t, old))
	v := jwtclaims.New(zap.New(core))
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	require.NoError(t, v.Use(&token.Rules{JWKSFile: path}))
	byOld := header{sign(t, jwt.SigningMethodES256, "old", k.p256, subject(nil))}
	byNew := header{sign(t, jwt.SigningMethodEdDSA, "new", k.ed, subject(nil))}
	noKid := header{sign(t, jwt.SigningMethodES256, "", k.p256, subject(nil))}
	for range 2 {
		require.NotNil(t, v.Claims(byOld))
		require.NotNil(t, v.Claims(noKid))
		require.Nil(t, v.Claims(byNew))
	}

	writeFile(t, path, both)
	waitFor(t, func() bool { return v.Claims(byNew) != nil })
	require.NotNil(t, v.Claims(byOld))

	assert.False(t, v.Stale())
	writeFile(t, path, []byte("{"))
	waitFor(t, v.Stale)
	_, failed := v.Loads()
	assert.Positive(t, failed)
	require.NotNil(t, v.Claims(byOld), "a file that is broken changes nothing")
	require.NotNil(t, v.Claims(byNew))

	writeFile(t, path, keySetJSON(t, next))
	waitFor(t, func() bool { return v.Claims(byOld) == nil })
	waitFor(t, func() bool { return !v.Stale() })
	_, reason := reasonOf(v, byOld)
	assert.Equal(t, "unknown_key", reason, "its key has left the set, whatever was cached")
	_, reason = reasonOf(v, noKid)
	assert.Equal(t, "unknown_key", reason)
	require.NotNil(t, v.Claims(byNew))
	assert.Equal(t, 1, logged.FilterLevelExact(zapcore.ErrorLevel).Len(), "a failure is logged once")
	for _, line := range logged.All() {
		assert.NotContains(t, fmt.Sprint(line), byOld[0])
	}
}

func TestFile_aKeyOfTheSameNameIsAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jwks.json")
	k := issuerKeys()
	writeFile(t, path, keySetJSON(t, jwk(t, "a", k.rsa.Public())))
	v := newVerifier(t, token.Rules{JWKSFile: path})
	text := header{sign(t, jwt.SigningMethodRS256, "a", k.rsa, subject(nil))}
	next := header{sign(t, jwt.SigningMethodRS256, "a", k.otherRSA, subject(nil))}
	require.NotNil(t, v.Claims(text))
	require.Nil(t, v.Claims(next))
	writeFile(t, path, keySetJSON(t, jwk(t, "a", k.otherRSA.Public())))
	waitFor(t, func() bool { return v.Claims(text) == nil })
	_, reason := reasonOf(v, text)
	assert.Equal(t, "signature", reason)
	assert.NotNil(t, v.Claims(next), "that it was rejected does not count for another key")
}

func TestFile_aSecretIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	first, second := strings.Repeat("a", 32), strings.Repeat("b", 32)
	writeFile(t, path, []byte(first))
	v := newVerifier(t, token.Rules{HMACSecretFile: path})
	old := header{sign(t, jwt.SigningMethodHS256, "", []byte(first), subject(nil))}
	require.NotNil(t, v.Claims(old))
	writeFile(t, path, []byte(second))
	waitFor(t, func() bool { return v.Claims(old) == nil })
	require.NotNil(t, v.Claims(header{sign(t, jwt.SigningMethodHS256, "", []byte(second), subject(nil))}))
}

// What everyone may read is no secret: who has it could sign tokens.
func TestUse_refusesPublicKeysAsASecret(t *testing.T) {
	for name, text := range map[string]string{
		"PEM":   "\n-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n",
		"a set": string(issuerSet(t)),
		"a key": `{"kty":"EC","crv":"P-256","x":"aaaaaaaaaaaaaaaaaaaaa","y":"bbbbbbbbbbbbbbbbbbb"}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			writeFile(t, path, []byte(text))
			v := jwtclaims.New(zap.NewNop())
			t.Cleanup(func() { require.NoError(t, v.Close()) })
			assert.ErrorContains(t, v.Use(&token.Rules{HMACSecretFile: path}), "this is a key set or a public key")
		})
	}
}

// issuer answers fetches of its key set.
type issuer struct {
	answer  atomic.Pointer[answer]
	fetches atomic.Int64
}

type answer func() (status int, body string, err error)

func newIssuer(first answer) *issuer {
	i := new(issuer)
	i.set(first)
	return i
}

func (i *issuer) set(next answer) { i.answer.Store(&next) }

func (i *issuer) RoundTrip(req *http.Request) (*http.Response, error) {
	i.fetches.Add(1)
	status, body, err := (*i.answer.Load())()
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

const keysURL = "https://id.example.com/keys?api_key=hidden"

func TestURL_isFetchedInTheBackground(t *testing.T) {
	k := issuerKeys()
	synctest.Test(t, func(t *testing.T) {
		core, logged := observer.New(zapcore.InfoLevel)
		v := jwtclaims.New(zap.New(core))
		down := func() (int, string, error) { return 0, "", errors.New("connection refused") }
		id := newIssuer(down)
		v.FetchBy(id)
		defer func() { require.NoError(t, v.Close()) }()
		require.NoError(t, v.Use(&token.Rules{JWKSURL: keysURL}))
		byOld := header{sign(t, jwt.SigningMethodES256, "old", k.p256, subject(map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()}))}
		byNew := header{sign(t, jwt.SigningMethodEdDSA, "new", k.ed, subject(map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()}))}

		synctest.Wait()
		_, reason := reasonOf(v, byOld)
		assert.Equal(t, "no_keys", reason)
		loaded, starting := v.Keys()
		assert.False(t, loaded)
		assert.True(t, starting)
		assert.False(t, v.Stale(), "none are in use")
		time.Sleep(10 * time.Second)
		loaded, starting = v.Keys()
		assert.False(t, loaded)
		assert.False(t, starting, "after 10 s it is degraded")
		assert.EqualValues(t, 4, id.fetches.Load(), "after 1, 2 and 4 s")

		id.set(func() (int, string, error) { return 200, string(keySetJSON(t, jwk(t, "old", k.p256.Public()))), nil })
		time.Sleep(time.Minute)
		require.NotNil(t, v.Claims(byOld))
		loaded, _ = v.Keys()
		assert.True(t, loaded)
		assert.Equal(t, 1, logged.FilterLevelExact(zapcore.ErrorLevel).Len())

		id.set(down)
		time.Sleep(time.Hour)
		require.NotNil(t, v.Claims(byOld), "a set once loaded is kept")
		assert.True(t, v.Stale())
		for _, broken := range []func() (int, string, error){
			func() (int, string, error) { return 500, string(keySetJSON(t, jwk(t, "new", k.ed.Public()))), nil },
			func() (int, string, error) { return 200, `{"keys":[]}`, nil },
			func() (int, string, error) { return 200, "<html>", nil },
			func() (int, string, error) { return 200, strings.Repeat(" ", 2<<20), nil },
		} {
			id.set(broken)
			time.Sleep(10 * time.Minute)
			require.NotNil(t, v.Claims(byOld))
			require.Nil(t, v.Claims(byNew))
		}
		id.set(func() (int, string, error) { return 200, string(keySetJSON(t, jwk(t, "new", k.ed.Public()))), nil })
		time.Sleep(6 * time.Minute)
		require.NotNil(t, v.Claims(byNew), "the set is refreshed")
		_, reason = reasonOf(v, byOld)
		assert.Equal(t, "unknown_key", reason)
		for _, line := range logged.All() {
			text := fmt.Sprint(line, line.ContextMap())
			assert.NotContains(t, text, "hidden", "the query may be secret")
			assert.Contains(t, text, "https://id.example.com/keys")
		}
	})
}

func TestURL_anUnknownKeyIsAskedForButNotOften(t *testing.T) {
	k := issuerKeys()
	synctest.Test(t, func(t *testing.T) {
		v := jwtclaims.New(zap.NewNop())
		set := keySetJSON(t, jwk(t, "old", k.p256.Public()))
		id := newIssuer(func() (int, string, error) { return 200, string(set), nil })
		v.FetchBy(id)
		defer func() { require.NoError(t, v.Close()) }()
		require.NoError(t, v.Use(&token.Rules{JWKSURL: keysURL}))
		synctest.Wait()
		byNew := header{sign(t, jwt.SigningMethodEdDSA, "new", k.ed, subject(nil))}
		for range 590 { // nearly a minute
			require.Nil(t, v.Claims(byNew))
			time.Sleep(100 * time.Millisecond)
		}
		assert.EqualValues(t, 6, id.fetches.Load(), "one every 10 s")
		both := keySetJSON(t, jwk(t, "old", k.p256.Public()), jwk(t, "new", k.ed.Public()))
		id.set(func() (int, string, error) { return 200, string(both), nil })
		v.Claims(byNew)
		time.Sleep(10 * time.Second)
		require.NotNil(t, v.Claims(byNew))
		count := id.fetches.Load()
		time.Sleep(4 * time.Minute)
		assert.Equal(t, count, id.fetches.Load(), "and then as seldom as usual")
	})
}

func TestURL_ofARealServer(t *testing.T) {
	id := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/keys", http.StatusFound)
			return
		}
		_, _ = w.Write(issuerSet(t))
	}))
	t.Cleanup(id.Close)
	good := header{sign(t, jwt.SigningMethodEdDSA, "ed", issuerKeys().ed, subject(nil))}
	v := newVerifier(t, token.Rules{JWKSURL: id.URL + "/moved"})
	waitFor(t, func() bool { return v.Claims(good) != nil })
	checked, err := jwtclaims.CheckOnce(t.Context(), &token.Rules{JWKSURL: id.URL + "/keys"}, good)
	require.NoError(t, err)
	require.NotNil(t, checked.Claims)
	assert.Equal(t, "ed", checked.KeyID)
	_, err = jwtclaims.CheckOnce(t.Context(), &token.Rules{JWKSURL: "http://127.0.0.1:1/keys"}, good)
	require.ErrorContains(t, err, "http://127.0.0.1:1/keys")
}
