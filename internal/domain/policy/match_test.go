package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func descriptor(t require.TestingT, entries ...string) []policy.DescriptorPattern {
	var list []policy.DescriptorPattern
	for _, entry := range entries {
		p, err := policy.ParseDescriptorPattern(entry)
		require.NoError(t, err)
		require.Equal(t, entry, p.String())
		list = append(list, p)
	}
	return list
}

func TestMatch_takesWhatRequestsCanHave(t *testing.T) {
	for name, check := range map[string]struct {
		fn         func(string) error
		right, bad []string
	}{
		"match.methods": {
			policy.CheckMethod,
			[]string{"GET", "POST", "DELETE", "M-SEARCH"},
			[]string{"", "get", "HEAD", "GET ", "GET,POST", "É"},
		},
		"match.host": {
			policy.CheckHost,
			[]string{"example.com", "*.example.com", "API.Example.com", "localhost", "a_b", "192.0.2.1", "[::1]", "xn--bcher-kva.example"},
			[]string{"", "*", "*.", "*.*.com", "a.*.com", "example.com:80", "http://example.com", "example.com.", ".example.com", "a/b", "ex ample", "[::1]:80", "[]", "é.com"},
		},
		"match.path": {
			policy.CheckPath,
			[]string{"/", "/**", "/*", "/api/search/**", "/api/*/items", "/a.b/c-d_e~f", "/a%20b", "/caf%c3%a9", "/café", "/a/", "/@me", "/a:b;c=d"},
			[]string{
				"", "api", "**", "/**/a", "/a**", "/a*", "/*a/b", "/a//b", "//", "/a/./b", "/a/..", "/a%2", "/a%zz", "/a b", "/a?b", "/a#b", "/{id}",
				"/a\\b", "/\x00", "/\x7f", "/***",
			},
		},
		"pattern": {
			policy.CheckPattern, []string{"a", "*", "a*", "*a", "a*b", "?", " "}, []string{"", "**", "a*b*", string(make([]byte, 257))},
		},
		"match.descriptor": {
			func(s string) error { _, err := policy.ParseDescriptorPattern(s); return err },
			[]string{"remote_address", "generic_key=login", "a=", "a=b=c", "a b"},
			[]string{"", "=", "=b", "a\n", "a=\x00"},
		},
	} {
		for _, s := range check.right {
			assert.NoError(t, check.fn(s), "%s %q", name, s)
		}
		for _, s := range check.bad {
			assert.True(t, isPolicyError(check.fn(s), name), "%s %q: %v", name, s, check.fn(s))
		}
	}
}

func TestDescriptorValue(t *testing.T) {
	entries := []policy.DescriptorEntry{{Key: "generic_key", Value: "login"}, {Key: "remote_address", Value: "192.0.2.1"}, {Key: "user", Value: "a&b"}}
	for _, c := range []struct {
		patterns []string
		want     string
	}{
		{[]string{"generic_key=login", "remote_address", "user=a&b"}, "192.0.2.1"},
		{[]string{"generic_key=login", "remote_address", "user"}, "192.0.2.1&a%26b"},
		{[]string{"generic_key=login", "remote_address=192.0.2.1", "user=a&b"}, ""},
		{nil, "generic_key&login&remote_address&192.0.2.1&user&a%26b"},
	} {
		m := policy.Match{Descriptor: descriptor(t, c.patterns...)}
		assert.Equal(t, c.want, m.DescriptorValue(entries), "%v", c.patterns)
	}
}
