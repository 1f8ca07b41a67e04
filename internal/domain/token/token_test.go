package token_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/token"
)

func TestRules_defaultsDependOnTheKeys(t *testing.T) {
	keys, secret := token.Rules{JWKSFile: "a"}, token.Rules{HMACSecretFile: "a"}
	assert.Equal(t, []string{"RS256", "ES256", "EdDSA"}, keys.Accepted())
	assert.Equal(t, []string{"HS256"}, secret.Accepted())
	assert.Equal(t, 32, secret.SecretBytes())
	secret.Algorithms = []string{"HS384", "HS256"}
	assert.Equal(t, secret.Algorithms, secret.Accepted())
	assert.Equal(t, 48, secret.SecretBytes())
	secret.Algorithms = []string{"HS512", "HS384"}
	assert.Equal(t, 64, secret.SecretBytes())
}

// TestRules_equalLooksAtEveryField: a field that Equal forgot would not come into force with a reload.
func TestRules_equalLooksAtEveryField(t *testing.T) {
	a := token.Rules{}
	require.True(t, a.Equal(&token.Rules{}))
	for i := range reflect.TypeFor[token.Rules]().NumField() {
		var b token.Rules
		switch field := reflect.ValueOf(&b).Elem().Field(i); field.Interface().(type) {
		case string:
			field.SetString("x")
		case []string:
			field.Set(reflect.ValueOf([]string{"x"}))
		case time.Duration:
			field.SetInt(1)
		default:
			t.Fatal("a field of another type")
		}
		assert.False(t, a.Equal(&b), "%+v", b)
	}
}

func TestCheckAlgorithm(t *testing.T) {
	keys, secret := token.Rules{JWKSURL: "https://a/"}, token.Rules{HMACSecretFile: "a"}
	for _, name := range token.Algorithms() {
		ofSecret := name[:2] == "HS"
		assert.Equal(t, !ofSecret, keys.CheckAlgorithm(name) == nil, name)
		assert.Equal(t, ofSecret, secret.CheckAlgorithm(name) == nil, name)
	}
	for _, name := range []string{"", "none", "NONE", "hs256", "RS257", "dir"} {
		require.ErrorIs(t, keys.CheckAlgorithm(name), domain.ErrInvalidPolicy, name)
		require.ErrorIs(t, secret.CheckAlgorithm(name), domain.ErrInvalidPolicy, name)
	}
}
