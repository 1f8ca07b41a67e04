package jwtclaims_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/jwtclaims"
	"github.com/velocity-limiter/velocity/internal/domain/token"
)

func TestClaims_aTokenWithoutKidIsNotTriedWithManyKeys(t *testing.T) {
	var all []jwkset.JWKMarshal
	var last *ecdsa.PrivateKey
	path := filepath.Join(t.TempDir(), "jwks.json")
	for i := range 9 {
		var err error
		last, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		all = append(all, jwk(t, fmt.Sprint(i), last.Public()))
	}
	writeFile(t, path, keySetJSON(t, all[1:]...))
	believed, _ := reasonOf(newVerifier(t, token.Rules{JWKSFile: path}), header{sign(t, jwt.SigningMethodES256, "", last, subject(nil))})
	assert.True(t, believed, "eight are tried")
	writeFile(t, path, keySetJSON(t, all...))
	v := newVerifier(t, token.Rules{JWKSFile: path})
	believed, reason := reasonOf(v, header{sign(t, jwt.SigningMethodES256, "", last, subject(nil))})
	assert.False(t, believed)
	assert.Equal(t, "unknown_key", reason)
	assert.NotNil(t, v.Claims(header{sign(t, jwt.SigningMethodES256, "8", last, subject(nil))}), "with kid one is enough")
}

func TestUse_aKeyThatOnlySignsIsLeftOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jwks.json")
	writeFile(t, path, keySetJSON(t, jwk(t, "a", issuerKeys().ed.Public(), func(m *jwkset.JWKMarshal) { m.KEYOPS = []jwkset.KEYOPS{jwkset.KeyOpsSign} })))
	v := jwtclaims.New(zap.NewNop())
	require.ErrorContains(t, v.Use(&token.Rules{JWKSFile: path}), "is for another use than signatures")
}

// transport is a function as an http.RoundTripper.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestURL_noRedirectionLeavesHTTPS(t *testing.T) {
	var asked []string
	v := jwtclaims.New(zap.NewNop())
	v.FetchBy(transport(func(req *http.Request) (*http.Response, error) {
		asked = append(asked, req.URL.String())
		to := http.Header{"Location": {"http://id.example.com/keys"}}
		return &http.Response{StatusCode: http.StatusFound, Header: to, Body: http.NoBody, Request: req}, nil
	}))
	require.NoError(t, v.Use(nil))
	require.NoError(t, v.Use(&token.Rules{JWKSURL: "https://id.example.com/keys"})) // which waits for the first fetch
	require.NoError(t, v.Close())
	require.NotEmpty(t, asked)
	for _, url := range asked {
		assert.Equal(t, "https://id.example.com/keys", url)
	}
}
