package admin_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/admin"
)

func TestConfig_needsATokenBeyondLoopback(t *testing.T) {
	for addr, loopback := range map[string]bool{
		"127.0.0.1:3001": true, "127.1.2.3:3001": true, "[::1]:3001": true, "localhost:3001": true,
		"[::ffff:127.0.0.1]:1": true, ":3001": false, "0.0.0.0:3001": false, "[::]:3001": false,
		"10.0.0.1:3001": false, "example.com:3001": false,
	} {
		err := admin.Config{Addr: addr}.Validate()
		assert.Equal(t, loopback, err == nil, addr)
		if err != nil {
			assert.Contains(t, err.Error(), "ADMIN_TOKEN")
			_, err = admin.New(admin.Config{Addr: addr}, nil, nil, admin.ServiceState{}, zap.NewNop())
			require.Error(t, err)
		}
		assert.NoError(t, admin.Config{Addr: addr, Token: "secret"}.Validate(), addr)
	}
	err := admin.Config{Addr: "x", Token: "a b", Hosts: []string{"http://x", "ok", "x:1"}}.Validate()
	require.Error(t, err)
	assert.Len(t, strings.Split(err.Error(), "\n"), 4)
	assert.NotContains(t, err.Error(), "a b")
}
