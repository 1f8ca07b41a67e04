package admin

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNewAdminClient_addresses(t *testing.T) {
	t.Setenv("VELOCITY_ADMIN_ADDR", "")
	t.Setenv("VELOCITY_ADMIN_TOKEN", "")
	for addr, want := range map[string]string{
		"": "http://127.0.0.1:3001", ":3001": "http://127.0.0.1:3001", "ops.example:80": "http://ops.example:80",
		"https://ops.example/": "https://ops.example",
	} {
		c, err := newAdminClient(addr)
		require.NoError(t, err, addr)
		assert.Equal(t, want, c.base)
	}
	for _, addr := range []string{"ftp://ops.example", "http://", "http://a b"} {
		_, err := newAdminClient(addr)
		require.ErrorContains(t, err, "must be host:port or an http URL", addr)
	}
	t.Setenv("VELOCITY_ADMIN_ADDR", "0.0.0.0:4001")
	t.Setenv("VELOCITY_ADMIN_TOKEN", " secret ")
	c, err := newAdminClient("")
	require.NoError(t, err)
	assert.Equal(t, "http://127.0.0.1:4001", c.base)
	assert.Equal(t, "secret", c.token)
}
