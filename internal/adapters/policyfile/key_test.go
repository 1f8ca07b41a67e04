package policyfile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

const secretFile = `shared:
  - { name: org, key: [{ from: cookie:org, secret: true }], rate: 1/s, capacity: 10 }
policies:
  - name: search
    key: { from: header:X-API-Key, secret: true }
    missing_key: refuse
    limits:
      - { rate: 5/s, capacity: 10 }
      - { name: session, rate: 5/s, capacity: 10, key: [ip, { from: query:sid, secret: true }, { from: header:X-Team, secret: false }] }
      - { use: org }
`

func hasher(t *testing.T) *clientkey.Hasher {
	t.Helper()
	h, err := clientkey.NewHasher([]byte("0123456789abcdef"))
	require.NoError(t, err)
	return h
}

func TestParse_secretKeys(t *testing.T) {
	h := hasher(t)
	set, err := policyfile.Parse([]byte(secretFile), "", policyfile.WithKeySecret(h))
	require.NoError(t, err)
	p := set.All()[0]
	assert.Equal(t, clientkey.Key{{Kind: clientkey.SourceHeader, Name: "x-api-key", Hasher: h}}, p.Key)
	assert.Equal(t, clientkey.Key{
		{}, {Kind: clientkey.SourceQuery, Name: "sid", Hasher: h}, {Kind: clientkey.SourceHeader, Name: "x-team"},
	}, p.KeyOf("session"))
	assert.Equal(t, clientkey.Key{{Kind: clientkey.SourceCookie, Name: "org", Hasher: h}}, p.KeyOf("org"))
	assert.Equal(t, policy.MissingKeyRefuse, p.MissingKey)
}

// A file with a secret key is refused where there is no secret: also when it is read again.
func TestLive_refusesSecretKeysWithoutTheSetting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policies.yaml")
	require.NoError(t, os.WriteFile(path, []byte(secretFile), 0o600))
	_, err := policyfile.Open(path, "", zap.NewNop(), policyfile.WithKeySecret(nil))
	require.ErrorIs(t, err, domain.ErrInvalidPolicy)
	assert.Contains(t, err.Error(), "5:44: policies[0].key.secret: true: needs VELOCITY_KEY_SECRET, which is not set")

	require.NoError(t, os.WriteFile(path, []byte("policies: [ { name: a, limits: [ { rate: 1/s, capacity: 1 } ] } ]\n"), 0o600))
	live, err := policyfile.Open(path, "", zap.NewNop())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(secretFile), 0o600))
	require.ErrorContains(t, live.Reload(), "needs VELOCITY_KEY_SECRET")
	assert.Equal(t, "a", live.All()[0].Name)

	live, err = policyfile.Open(path, "", zap.NewNop(), policyfile.WithKeySecret(hasher(t)))
	require.NoError(t, err)
	require.NoError(t, live.Reload())
	assert.True(t, live.All()[0].Key.Secret())
}

func TestParse_refusesSecretsThatClientsDoNotSend(t *testing.T) {
	for _, source := range []string{"ip", "ip/48", "global"} {
		_, err := policyfile.Parse([]byte("policies:\n- name: a\n  key: { from: "+source+", secret: true }\n  limits: [ { rate: 1/s, capacity: 1 } ]\n"),
			"", policyfile.WithKeySecret(hasher(t)))
		assert.ErrorContains(t, err, `policies[0].key.secret: "`+source+`": cannot be secret: only header:NAME`, source)
	}
}

func TestParse_aSourceIsSecretInAllKeysOrInNone(t *testing.T) {
	_, err := policyfile.Parse([]byte(`policies:
- name: a
  key: { from: header:X-API-Key, secret: true }
  limits:
    - { rate: 1/s, capacity: 1 }
    - { name: b, rate: 1/s, capacity: 1, key: ["header:X-API-Key", ip] }
`), "", policyfile.WithKeySecret(hasher(t)))
	assert.EqualError(t, err,
		`6:47: policies[0].limits[1].key: "header:x-api-key": must be secret in every key of the policy and of its shared limits, or in none`)
}

// The YAML parser reads header:X-Org as a mapping where it stands in a list in braces.
func TestParse_aSourceWithoutQuotesInAListInBraces(t *testing.T) {
	_, err := policyfile.Parse([]byte("policies:\n- name: a\n  limits: [ { rate: 1/s, capacity: 1, key: [ip, header:X-Org] } ]\n"), "")
	assert.EqualError(t, err, `3:49: "header": must be in quotes inside braces, with all that belongs to it, as in "header:X-Plan"`)
}

// Errors of a file are logged when it is read again. They say where a pattern of a secret key is, and not what it is.
func TestParse_showsNoPatternOfASecretKey(t *testing.T) {
	const file = "policies:\n- name: a\n  key: { from: header:X-API-Key, secret: true }\n  cost: 5\n  limits: [ { rate: 1/s, capacity: 10 } ]\n"
	for text, want := range map[string]string{
		"  exempt: [ ok, \"sk_live_*x*\" ]\n":                                                                "6:17: policies[0].exempt[1]: must have one * at most",
		"  exempt: [ ok, \"hmac:sk_live\" ]\n":                                                               "6:17: policies[0].exempt[1]: must be the value: ",
		"  overrides:\n  - { keys: [ \"hmac:sk_live\" ], limits: [ { rate: 2/s } ] }\n":                      "7:15: policies[0].overrides[0].keys[0]: must be the value: ",
		"  overrides:\n  - { keys: [ sk_live_1 ], limits: [ { capacity: 3 } ] }\n":                           "the capacity of the limit a of the override on line 7",
		"  overrides:\n  - { when: { \"header:X-API-Key\": \"sk_live_*\" }, limits: [ { capacity: 9 } ] }\n": "7:35: policies[0].overrides[0].when.header:X-API-Key: must be a whole value",
	} {
		_, err := policyfile.Parse([]byte(file+text), "", policyfile.WithKeySecret(hasher(t)))
		require.ErrorContains(t, err, want, text)
		assert.NotContains(t, err.Error(), "sk_live", text)
	}
}

func TestParse_showsNoConditionOnASecretKeyOfALimit(t *testing.T) {
	const file = `policies:
- name: a
  limits: [ { name: a, rate: 1/s, capacity: 10 }, { name: b, rate: 1/s, capacity: 10, key: { from: header:X-API-Key, secret: true } } ]
  overrides: [ { when: { "header:X-API-Key": "sk_live_*" }, limits: [ { name: a, capacity: 9 } ] } ]
`
	_, err := policyfile.Parse([]byte(file), "", policyfile.WithKeySecret(hasher(t)))
	require.ErrorContains(t, err, "must be a whole value")
	assert.NotContains(t, err.Error(), "sk_live")
}
