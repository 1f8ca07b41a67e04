package target_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/web/problem"
	"github.com/velocity-limiter/velocity/internal/web/target"
)

func TestCheckMethod(t *testing.T) {
	for _, method := range []string{"GET", "POST", "BREW", "brew", "PROPFIND", ""} {
		assert.NoError(t, target.CheckMethod(method), method)
	}
	for _, method := range []string{"Get", "get", "pOST", "PropFind", "query"} {
		assert.ErrorIs(t, target.CheckMethod(method), problem.ErrMalformed, method)
	}
}

func TestSplit(t *testing.T) {
	for uri, want := range map[string][2]string{
		"/": {"/", ""}, "/a?b?c": {"/a", "b?c"}, "/a?": {"/a", ""}, "//a": {"//a", ""},
		"http://x/a?b": {"/a", "b"}, "HTTPS://x": {"", ""}, "http://x?b": {"", "b"},
	} {
		path, query, err := target.Split(uri)
		assert.NoError(t, err, uri)
		assert.Equal(t, want, [2]string{path, query}, uri)
	}
	for _, uri := range []string{"", "a", "*", "x:80", "ftp://x/a", "/a#b", "/a b", "/a\x7f", "/a\x00"} {
		_, _, err := target.Split(uri)
		assert.ErrorIs(t, err, problem.ErrMalformed, uri)
	}
}

func TestValidHost(t *testing.T) {
	for _, host := range []string{"x", "api.example.com:81", "[::1]:80", "127.0.0.1"} {
		assert.True(t, target.ValidHost(host), host)
	}
	for _, host := range []string{"", "x/y", `x"`, "x, y", "u@x"} {
		assert.False(t, target.ValidHost(host), host)
	}
}
