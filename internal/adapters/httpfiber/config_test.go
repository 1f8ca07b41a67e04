package httpfiber_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
)

func TestConfig_reportsEveryViolationWithSettingAndValue(t *testing.T) {
	err := httpfiber.Config{
		Addr: "3000", TrustedProxies: []string{"nonsense", "10.0.0.0/99"}, APIToken: "two words", TLSKeyFile: "/key.pem",
		ReadTimeout: -time.Second, WriteTimeout: 0, IdleTimeout: 1, MaxConns: 0, DrainPeriod: -1,
	}.Validate()
	require.Error(t, err)
	for _, want := range []string{
		`VELOCITY_HTTP_ADDR: "3000": `, `VELOCITY_TRUSTED_PROXIES: "nonsense": `, `VELOCITY_TRUSTED_PROXIES: "10.0.0.0/99": `,
		`VELOCITY_API_TOKEN: [redacted]: `, `VELOCITY_TLS_CERT_FILE: "": must be set together with VELOCITY_TLS_KEY_FILE`,
		`VELOCITY_HTTP_READ_TIMEOUT: -1s: `, `VELOCITY_HTTP_WRITE_TIMEOUT: 0s: `, `VELOCITY_HTTP_IDLE_TIMEOUT: 1ns: `,
		`VELOCITY_HTTP_MAX_CONNS: 0: `, `VELOCITY_HTTP_DRAIN_PERIOD: -1ns: `,
	} {
		assert.Contains(t, err.Error(), want)
	}
	assert.Len(t, strings.Split(err.Error(), "\n"), 10)
	assert.NotContains(t, err.Error(), "two words")
	_, err = httpfiber.New(httpfiber.Config{}, nil, zap.NewNop())
	require.Error(t, err)
	require.NoError(t, testConfig().Validate())
}

func TestConfig_addresses(t *testing.T) {
	for addr, ok := range map[string]bool{
		":3000": true, "127.0.0.1:3000": true, "[::1]:3000": true, "localhost:http": true, "0.0.0.0:0": true,
		"": false, ":": false, "host": false, ":70000": false, ":-1": false, "::1:3000": false, ":x": false,
	} {
		cfg := testConfig()
		cfg.Addr = addr
		assert.Equal(t, ok, cfg.Validate() == nil, addr)
	}
}

func TestConfig_certificateThatCannotBeLoaded(t *testing.T) {
	cfg := testConfig()
	cfg.TLSCertFile, cfg.TLSKeyFile = filepath.Join(t.TempDir(), "none.pem"), "key.pem"
	require.ErrorContains(t, cfg.Validate(), "VELOCITY_TLS_CERT_FILE")
	require.NoError(t, os.WriteFile(cfg.TLSCertFile, []byte("no certificate"), 0o600))
	require.ErrorContains(t, cfg.Validate(), "VELOCITY_TLS_CERT_FILE")
}

func TestAdminConfig_needsATokenBeyondLoopback(t *testing.T) {
	for addr, loopback := range map[string]bool{
		"127.0.0.1:3001": true, "127.1.2.3:3001": true, "[::1]:3001": true, "localhost:3001": true,
		"[::ffff:127.0.0.1]:1": true, ":3001": false, "0.0.0.0:3001": false, "[::]:3001": false,
		"10.0.0.1:3001": false, "example.com:3001": false,
	} {
		err := httpfiber.AdminConfig{Addr: addr}.Validate()
		assert.Equal(t, loopback, err == nil, addr)
		if err != nil {
			assert.Contains(t, err.Error(), "VELOCITY_ADMIN_TOKEN")
			_, err = httpfiber.NewAdmin(httpfiber.AdminConfig{Addr: addr}, nil, nil, httpfiber.ServiceState{}, zap.NewNop())
			require.Error(t, err)
		}
		assert.NoError(t, httpfiber.AdminConfig{Addr: addr, Token: "secret"}.Validate(), addr)
	}
	err := httpfiber.AdminConfig{Addr: "x", Token: "a b", Hosts: []string{"http://x", "ok", "x:1"}}.Validate()
	require.Error(t, err)
	assert.Len(t, strings.Split(err.Error(), "\n"), 4)
	assert.NotContains(t, err.Error(), "a b")
}

func TestSecret_isNeverPrinted(t *testing.T) {
	secret := httpfiber.Secret("hunter2")
	cfg := httpfiber.Config{APIToken: secret}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		assert.NotContains(t, fmt.Sprintf(verb, secret), "hunter2", verb)
		assert.NotContains(t, fmt.Sprintf(verb, cfg), "hunter2", verb)
		assert.NotContains(t, fmt.Sprintf(verb, &cfg), "68756e74657232", verb)
	}
	text, err := json.Marshal(cfg)
	require.NoError(t, err)
	assert.NotContains(t, string(text), "hunter2")
	assert.Contains(t, string(text), "[redacted]")
	assert.Empty(t, httpfiber.Secret("").String())
}
