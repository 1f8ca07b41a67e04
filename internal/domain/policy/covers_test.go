package policy_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func TestMatchCovers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b policy.Match
		want bool
	}{
		{policy.Match{}, policy.Match{Methods: []string{"GET"}, Host: "a.example", Path: "/a"}, true},
		{policy.Match{Path: "/**"}, policy.Match{}, true},
		{policy.Match{Path: "/a/**"}, policy.Match{Path: "/a"}, true},
		{policy.Match{Path: "/a/*"}, policy.Match{Path: "/a/b/"}, true},
		{policy.Match{Path: "/a/*"}, policy.Match{Path: "/a/**"}, false},
		{policy.Match{Path: "/a"}, policy.Match{Path: "/a/b"}, false},
		{policy.Match{Path: "/a"}, policy.Match{}, false},
		{policy.Match{Path: "/*"}, policy.Match{Path: "/"}, false},
		{policy.Match{Methods: []string{"GET"}}, policy.Match{}, false},
		{policy.Match{Methods: []string{"GET", "PUT"}}, policy.Match{Methods: []string{"PUT"}}, true},
		{policy.Match{Host: "*.example"}, policy.Match{Host: "a.EXAMPLE"}, true},
		{policy.Match{Host: "*.example"}, policy.Match{Host: "*.a.example"}, true},
		{policy.Match{Host: "*.example"}, policy.Match{Host: "example"}, false},
		{policy.Match{Host: "a.example"}, policy.Match{Host: "*.example"}, false},
		{policy.Match{}, policy.Match{Domain: "edge"}, false},
	} {
		assert.Equal(t, tt.want, tt.a.Covers(&tt.b), "%+v, %+v", tt.a, tt.b)
	}
}

// A match that is covered matches no request that the covering one does not.
func TestMatchCovers_neverClaimsTooMuch(t *testing.T) {
	t.Parallel()
	segments := rapid.SampledFrom([]string{"a", "b", "*"})
	match := rapid.Custom(func(t *rapid.T) policy.Match {
		m := policy.Match{
			Methods: rapid.SampledFrom([][]string{nil, {"GET"}, {"PUT"}, {"GET", "PUT"}}).Draw(t, "methods"),
			Host:    rapid.SampledFrom([]string{"", "a.example", "*.example", "*.a.example", "example"}).Draw(t, "host"),
		}
		if rapid.Bool().Draw(t, "hasPath") {
			m.Path = "/" + strings.Join(rapid.SliceOfN(segments, 0, 3).Draw(t, "path"), "/")
			if rapid.Bool().Draw(t, "open") {
				m.Path = strings.TrimSuffix(m.Path, "/") + "/**"
			}
		}
		return m
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := match.Draw(t, "a"), match.Draw(t, "b")
		req := policy.Request{
			Method: rapid.SampledFrom([]string{"GET", "PUT", "POST"}).Draw(t, "method"),
			Host:   rapid.SampledFrom([]string{"", "example", "a.example", "b.a.example"}).Draw(t, "host"),
			Path:   "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 4).Draw(t, "path"), "/"),
		}
		if a.Covers(&b) && b.Mismatch(&req) == "" {
			require.Empty(t, a.Mismatch(&req), "%+v does not cover %+v: %+v", a, b, req)
		}
	})
}
