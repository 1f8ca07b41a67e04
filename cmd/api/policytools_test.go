package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/domain"
)

func TestCovers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b domain.Match
		want bool
	}{
		{domain.Match{}, domain.Match{Methods: []string{"GET"}, Host: "a.example", Path: "/a"}, true},
		{domain.Match{Path: "/**"}, domain.Match{}, true},
		{domain.Match{Path: "/a/**"}, domain.Match{Path: "/a"}, true},
		{domain.Match{Path: "/a/*"}, domain.Match{Path: "/a/b/"}, true},
		{domain.Match{Path: "/a/*"}, domain.Match{Path: "/a/**"}, false},
		{domain.Match{Path: "/a"}, domain.Match{Path: "/a/b"}, false},
		{domain.Match{Path: "/a"}, domain.Match{}, false},
		{domain.Match{Path: "/*"}, domain.Match{Path: "/"}, false},
		{domain.Match{Methods: []string{"GET"}}, domain.Match{}, false},
		{domain.Match{Methods: []string{"GET", "PUT"}}, domain.Match{Methods: []string{"PUT"}}, true},
		{domain.Match{Host: "*.example"}, domain.Match{Host: "a.EXAMPLE"}, true},
		{domain.Match{Host: "*.example"}, domain.Match{Host: "*.a.example"}, true},
		{domain.Match{Host: "*.example"}, domain.Match{Host: "example"}, false},
		{domain.Match{Host: "a.example"}, domain.Match{Host: "*.example"}, false},
		{domain.Match{}, domain.Match{Domain: "edge"}, false},
	} {
		assert.Equal(t, tt.want, covers(&tt.a, &tt.b), "%+v, %+v", tt.a, tt.b)
	}
}

// TestCovers_isTrue: a policy that is said never to apply takes no request that the earlier one leaves.
func TestCovers_isTrue(t *testing.T) {
	t.Parallel()
	segments := rapid.SampledFrom([]string{"a", "b", "*"})
	match := rapid.Custom(func(t *rapid.T) domain.Match {
		m := domain.Match{
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
		req := domain.Request{
			Method: rapid.SampledFrom([]string{"GET", "PUT", "POST"}).Draw(t, "method"),
			Host:   rapid.SampledFrom([]string{"", "example", "a.example", "b.a.example"}).Draw(t, "host"),
			Path:   "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 4).Draw(t, "path"), "/"),
		}
		if covers(&a, &b) && b.Mismatch(&req) == "" {
			require.Empty(t, a.Mismatch(&req), "%+v does not cover %+v: %+v", a, b, req)
		}
	})
}

func TestNewAsked_aHostWithoutASchemeIsNoPath(t *testing.T) {
	for _, target := range []string{"localhost:3000/search", "mailto:a@example.com", "search"} {
		_, err := newAsked("GET", target, nil, httpfiber.PathRules{})
		assert.Error(t, err, target)
	}
	for _, target := range []string{"/search", "http://localhost:3000/search", "//localhost/search"} {
		a, err := newAsked("GET", target, nil, httpfiber.PathRules{})
		require.NoError(t, err, target)
		assert.Equal(t, "/search", a.request.Path, target)
	}
}

func TestShortDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		24 * time.Hour: "24h", time.Hour + time.Minute: "1h1m", 10 * time.Minute: "10m", time.Minute + time.Second: "1m1s",
		10 * time.Second: "10s", 250 * time.Millisecond: "250ms", 10*time.Hour + time.Second: "10h0m1s",
	} {
		assert.Equal(t, want, shortDuration(d))
	}
}

func TestPrintable_nothingActsOnATerminal(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"alice": "alice", "192.0.2.1": "192.0.2.1", "a b": "a b", "a\tb": `"a\tb"`, "\x1b[2J": `"\x1b[2J"`, "ä": "ä", "\xff": `"\xff"`,
	} {
		assert.Equal(t, want, printable(s))
	}
}
