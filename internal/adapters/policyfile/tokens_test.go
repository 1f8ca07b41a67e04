package policyfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/domain/token"
	"github.com/velocity-limiter/velocity/internal/filewatch"
)

const defaultPolicy = "policies: [ { name: default, key: \"claim:https://example.com/sub\", limits: [ { rate: 5/s, capacity: 10 } ] } ]\n"

func TestLoad_readsTheRulesOfTokens(t *testing.T) {
	folder := t.TempDir()
	load := func(rules string) *policyfile.Set {
		path := filepath.Join(folder, "policies.yaml")
		require.NoError(t, os.WriteFile(path, []byte(rules+defaultPolicy), 0o600))
		set, err := policyfile.Load(path, "")
		require.NoError(t, err)
		return set
	}
	assert.Nil(t, load("").JWT)
	assert.Equal(t, []string{"default"}, load("").UsesClaims())
	path := filepath.Join(folder, "conditions.yaml")
	require.NoError(t, os.WriteFile(path, []byte(`policies:
- { name: plain, match: { path: /a }, limits: [ { rate: 5/s, capacity: 10 } ], overrides: [ { when: { "header:x": y }, limits: [ { capacity: 20 } ] } ] }
- { name: plans, limits: [ { rate: 5/s, capacity: 10 } ], overrides: [ { when: { "claim:plan": pro }, limits: [ { capacity: 20 } ] } ] }
`), 0o600))
	conditions, err := policyfile.Load(path, "")
	require.NoError(t, err)
	assert.Equal(t, []string{"plans"}, conditions.UsesClaims())
	assert.Equal(t, &token.Rules{JWKSURL: "https://id.example.com/keys?a=b"}, load("jwt: { jwks_url: \"https://id.example.com/keys?a=b\" }\n").JWT)
	assert.Equal(t, &token.Rules{HMACSecretFile: "/run/secret", Algorithms: []string{"HS512"}},
		load("jwt: { hmac_secret_file: /run/secret, algorithms: [HS512] }\n").JWT, "an absolute path stays")
	assert.Equal(t, &token.Rules{
		Header: "X-Token", JWKSFile: filepath.Join(folder, "keys/jwks.json"), Issuer: "https://id.example.com", Audience: []string{"api", "web"},
		Algorithms: []string{"ES256", "EdDSA"}, Leeway: 30 * time.Second,
	}, load(`jwt:
  header: X-Token
  jwks_file: keys/jwks.json
  issuer: https://id.example.com
  audience: [api, web]
  algorithms: [ES256, EdDSA]
  leeway: 30s
`).JWT)
	assert.Equal(t, []string{"api"}, load("jwt: { jwks_file: a, audience: api }\n").JWT.Audience, "a text alone is a list of one")
}

func TestLive_aSetThatIsNotAcceptedStaysOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policies.yaml")
	require.NoError(t, os.WriteFile(path, []byte("jwt: { jwks_file: good.json }\n"+defaultPolicy), 0o600))
	live, err := policyfile.Open(path, "", zap.NewNop())
	require.NoError(t, err)
	var asked []string
	refusal := errors.New("no keys")
	require.NoError(t, live.Accept(func(set *policyfile.Set) error {
		name := filepath.Base(set.JWT.JWKSFile)
		asked = append(asked, name)
		if name == "bad.json" {
			return refusal
		}
		return nil
	}))
	before := live.Status().Version
	require.NoError(t, os.WriteFile(path, []byte("jwt: { jwks_file: bad.json }\n"+defaultPolicy), 0o600))
	require.ErrorIs(t, live.Reload(), refusal)
	assert.Equal(t, policyfile.Status{Attempts: filewatch.Attempts{Failed: 1, Stale: true}, Version: before, Policies: 1}, live.Status())
	require.NoError(t, os.WriteFile(path, []byte("jwt: { jwks_file: other.json }\n"+defaultPolicy), 0o600))
	require.NoError(t, live.Reload())
	assert.Equal(t, []string{"good.json", "bad.json", "other.json"}, asked)
	assert.NotEqual(t, before, live.Status().Version)
}

// TestLive_aSetIsAcceptedLater: what it needs may be there later than the file.
func TestLive_aSetIsAcceptedLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policies.yaml")
	require.NoError(t, os.WriteFile(path, []byte(defaultPolicy), 0o600))
	core, logged := observer.New(zap.ErrorLevel)
	live, err := policyfile.Open(path, "", zap.New(core))
	require.NoError(t, err)
	there := false
	require.NoError(t, live.Accept(func(set *policyfile.Set) error {
		if set.JWT == nil || there {
			return nil
		}
		return errors.New("no keys")
	}))
	require.NoError(t, os.WriteFile(path, []byte("jwt: { jwks_file: a }\n"+defaultPolicy), 0o600))
	for range 3 {
		assert.False(t, live.Follow())
		assert.True(t, live.Status().Stale)
	}
	assert.EqualValues(t, 1, live.Status().Failed)
	assert.Equal(t, 1, logged.Len(), "it is logged once")
	there = true
	for range 3 {
		assert.False(t, live.Follow())
		assert.Equal(t, policyfile.Status{Attempts: filewatch.Attempts{Reloaded: 1, Failed: 1}, Version: live.Status().Version, Policies: 1}, live.Status())
	}
}
