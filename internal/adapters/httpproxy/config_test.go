package httpproxy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/httpproxy"
)

func TestUpstreamConfig_violations(t *testing.T) {
	for url, want := range map[string]string{
		"":                     "",
		"http://a":             "",
		"h2c://a:80":           "",
		"http://a:0":           "port from 1",
		"http://a:65536":       "port from 1",
		"https://a:8443/":      "",
		"http://[::1]:80":      "",
		"a:80":                 "must be http",
		"ftp://a":              "must be http",
		"http://":              "must be http",
		"http://a:port":        "must be http",
		"http://user:secret@a": "must not hold a user",
		"http://a/base":        "must end after the host",
		"http://a?x":           "must end after the host",
		"http://a#x":           "must end after the host",
	} {
		cfg := proxyConfig(url)
		err := cfg.Upstream.Validate()
		if want == "" {
			assert.NoError(t, err, url)
			continue
		}
		require.ErrorContains(t, err, "UPSTREAM_URL: ", url)
		assert.ErrorContains(t, err, want, url)
		assert.NotContains(t, err.Error(), "secret")
	}
	cfg := proxyConfig("http://a")
	cfg.Upstream = httpproxy.Config{URL: "http://a", Host: "a b"}
	err := cfg.Upstream.Validate()
	for _, setting := range []string{"UPSTREAM_HOST", "UPSTREAM_TIMEOUT", "UPSTREAM_IDLE_TIMEOUT", "UPSTREAM_MAX_CONNS"} {
		assert.ErrorContains(t, err, setting+": ")
	}
}
