package hostname_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/web/hostname"
)

func TestLocal_isLocalhostOrAnAddress(t *testing.T) {
	for host, local := range map[string]bool{
		"localhost": true, "localhost:3000": true, "LocalHost.": true, "localhost.:80": true,
		"127.0.0.1": true, "127.0.0.1:3000": true, "192.0.2.7": true, "::1": true, "[::1]": true, "[2001:db8::1]:3000": true,
		"": false, ":3000": false, "evil.example": false, "evil.example:3000": false, "localhost.evil.example": false,
		"127.0.0.1.evil.example": false, "127.0.0.1:80:80": false, "localhost:80:80": false, "evil.example#localhost": false,
	} {
		assert.Equal(t, local, hostname.Local(hostname.Of(host)), "%q", host)
	}
	assert.Equal(t, "velocity.internal", hostname.Of("Velocity.INTERNAL.:3001"))
}
