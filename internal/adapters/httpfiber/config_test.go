package httpfiber_test

import (
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
		CORSOrigins: []string{"app.example.com", "null"}, LimitHeaders: []string{"x-ratelimit", "retry-after"},
		ReadTimeout: -time.Second, WriteTimeout: 0, IdleTimeout: 1, MaxConns: 0, DrainPeriod: -1,
	}.Validate()
	require.Error(t, err)
	for _, want := range []string{
		`HTTP_ADDR: "3000": `, `TRUSTED_PROXIES: "nonsense": `, `TRUSTED_PROXIES: "10.0.0.0/99": `,
		`API_TOKEN: [redacted]: `, `TLS_CERT_FILE: "": must be set together with TLS_KEY_FILE`,
		`HTTP_READ_TIMEOUT: -1s: `, `HTTP_WRITE_TIMEOUT: 0s: `, `HTTP_IDLE_TIMEOUT: 1ns: `,
		`CORS_ORIGINS: "app.example.com": must be scheme://host`, `CORS_ORIGINS: "null": must not be null`,
		`LIMIT_HEADERS: "x-ratelimit,retry-after": must be x-ratelimit, ratelimit, or both with a comma between: "retry-after" is not x-ratelimit or ratelimit`,
		`HTTP_MAX_CONNS: 0: `, `HTTP_DRAIN_PERIOD: -1ns: `,
	} {
		assert.Contains(t, err.Error(), want)
	}
	assert.Len(t, strings.Split(err.Error(), "\n"), 13)
	assert.NotContains(t, err.Error(), "two words")
	_, err = httpfiber.New(httpfiber.Config{}, nil, nil, zap.NewNop())
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
	require.ErrorContains(t, cfg.Validate(), "TLS_CERT_FILE")
	require.NoError(t, os.WriteFile(cfg.TLSCertFile, []byte("no certificate"), 0o600))
	require.ErrorContains(t, cfg.Validate(), "TLS_CERT_FILE")
}

func TestConfig_printsNoToken(t *testing.T) {
	assert.NotContains(t, fmt.Sprintf("%+v", httpfiber.Config{APIToken: "hunter2"}), "hunter2")
}
