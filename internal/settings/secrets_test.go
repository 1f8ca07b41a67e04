package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// secretFile writes a file for a test and returns its path.
func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestLoad_everySecretHasATwin(t *testing.T) {
	vars := map[string]string{
		"VELOCITY_REDIS_ADDRS": "a:1", "VELOCITY_STORE": "redis-sentinel", "VELOCITY_REDIS_SENTINEL_MASTER": "main",
		"VELOCITY_POLICY_FILE": "policies.yaml",
	}
	const long = "-0123456789abcdef0123456789abcdef" // a secret may have to be long
	n := 0
	for _, s := range settingsOf(new(Config)) {
		if s.isSecret() {
			n++
			vars[s.name+"_FILE"] = secretFile(t, "of-"+s.name+long+"\n")
			assert.Contains(t, s.meaning, s.name+"_FILE")
		}
	}
	require.GreaterOrEqual(t, n, 4)
	setenv(t, vars)
	cfg, err := Load()
	require.NoError(t, err)
	for _, s := range settingsOf(&cfg) {
		if s.isSecret() {
			assert.Equal(t, "of-"+s.name+long, s.field.String())
		}
	}
	assert.Len(t, cfg.SecretFiles, 4, "those that may change")
	user, password, err := cfg.Redis.Credentials(t.Context())
	require.NoError(t, err)
	assert.Empty(t, user)
	assert.Equal(t, "of-VELOCITY_REDIS_PASSWORD"+long, password)
	_, password, err = cfg.Redis.SentinelCredentials(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "of-VELOCITY_REDIS_SENTINEL_PASSWORD"+long, password)
	assert.Empty(t, Unknown([]string{"VELOCITY_API_TOKEN_FILE=x", "VELOCITY_REDIS_PASSWORD_FILE=x"}))
	assert.Equal(t, []UnknownVariable{{"VELOCITY_RATE_FILE", ""}}, Unknown([]string{"VELOCITY_RATE_FILE=x"}))
}

func TestLoad_aTokenOfAFileHasAName(t *testing.T) {
	setenv(t, map[string]string{
		"VELOCITY_ADMIN_TOKEN_FILE": secretFile(t, "alice:one\nbob:two\n"), "VELOCITY_API_TOKEN": "a:b", "VELOCITY_ADMIN_ADDR": ":3001",
	})
	cfg, err := Load()
	require.NoError(t, err)
	name, err := cfg.Admin.LiveTokens.Check([][]byte{[]byte("Bearer two")})
	require.NoError(t, err)
	assert.Equal(t, "bob", name)
	name, err = cfg.HTTP.Tokens().Check([][]byte{[]byte("Bearer a:b")})
	require.NoError(t, err, "a token in a variable has no name, and may have a colon")
	assert.Equal(t, "token", name)
	first, err := AdminToken()
	require.NoError(t, err)
	assert.Equal(t, "one", string(first))
}

func TestLoad_violationsOfSecrets(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "nothing")
	empty := secretFile(t, "\n")
	for name, c := range map[string]struct {
		vars map[string]string
		want string
	}{
		"both": {
			map[string]string{"VELOCITY_ADMIN_TOKEN": "hush", "VELOCITY_ADMIN_TOKEN_FILE": secretFile(t, "hush"), "VELOCITY_ADMIN_ADDR": ":1"},
			"VELOCITY_ADMIN_TOKEN_FILE: VELOCITY_ADMIN_TOKEN is set, too: set one of them",
		},
		"missing": {
			map[string]string{"VELOCITY_ADMIN_TOKEN_FILE": missing, "VELOCITY_ADMIN_ADDR": ":1"},
			"VELOCITY_ADMIN_TOKEN_FILE: open " + missing + ": no such file or directory",
		},
		"empty": {
			map[string]string{"VELOCITY_REDIS_PASSWORD_FILE": empty, "REDIS_ADDR": "a:1", "VELOCITY_REDIS_USERNAME": "bob"},
			"VELOCITY_REDIS_PASSWORD_FILE: " + empty + ": the file is empty",
		},
		"a token that is none": {
			map[string]string{"VELOCITY_API_TOKEN_FILE": secretFile(t, "alice:a\nhush hush")},
			"VELOCITY_API_TOKEN_FILE: [redacted]: line 2: must be of visible ASCII characters, without spaces",
		},
		"a key secret in a file that is missing": {
			map[string]string{"VELOCITY_KEY_SECRET_FILE": missing, "VELOCITY_POLICY_FILE": "policies.yaml"},
			"VELOCITY_KEY_SECRET_FILE: open " + missing + ": no such file or directory",
		},
		"a short key secret in a file": {
			map[string]string{"VELOCITY_KEY_SECRET_FILE": secretFile(t, "hush"), "VELOCITY_POLICY_FILE": "policies.yaml"},
			"VELOCITY_KEY_SECRET_FILE: 4 bytes: must have at least 16 bytes, as random as those of openssl rand -hex 32",
		},
		"several in a variable": {
			map[string]string{"VELOCITY_API_TOKEN": "hush\nbob:hush"},
			"VELOCITY_API_TOKEN: [redacted]: must be one token: several belong in a file, which VELOCITY_API_TOKEN_FILE names",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := lines(t, c.vars)
			assert.Equal(t, []string{c.want}, got)
			assert.NotContains(t, strings.Join(got, ""), "hush")
		})
	}
}

// Programs that read no other setting find the secret of keys where the service finds it, and refuse what it refuses.
func TestKeyHasher_readsTheFile(t *testing.T) {
	const text = "0123456789abcdef"
	want, err := clientkey.NewHasher([]byte(text))
	require.NoError(t, err)
	setenv(t, map[string]string{"VELOCITY_KEY_SECRET_FILE": secretFile(t, text+"\n")})
	got, err := KeyHasher()
	require.NoError(t, err)
	require.NotNil(t, got)
	assert.Equal(t, want.Hash("alice"), got.Hash("alice"))

	missing := filepath.Join(t.TempDir(), "nothing")
	short := "VELOCITY_KEY_SECRET_FILE: 4 bytes: must have at least 16 bytes, as random as those of openssl rand -hex 32"
	for wrong, vars := range map[string]map[string]string{
		"VELOCITY_KEY_SECRET_FILE: open " + missing + ": no such file or directory": {"VELOCITY_KEY_SECRET_FILE": missing},
		short: {"VELOCITY_KEY_SECRET_FILE": secretFile(t, "hush")},
		"VELOCITY_KEY_SECRET_FILE: VELOCITY_KEY_SECRET is set, too: set one of them": {"VELOCITY_KEY_SECRET": text, "VELOCITY_KEY_SECRET_FILE": missing},
	} {
		setenv(t, vars)
		_, err = KeyHasher()
		assert.EqualError(t, err, wrong)
	}
}
