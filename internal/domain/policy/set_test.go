package policy_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// setOf makes policies p0, p1, ... of these matches.
func setOf(t require.TestingT, matches ...policy.Match) *policy.Set {
	var policies []policy.Policy
	for i, m := range matches {
		policies = append(policies, policy.Policy{
			Name: fmt.Sprintf("p%d", i), Match: m, Limits: []domain.Limit{named(t, "burst", 10)}, OnStoreFailure: policy.FailOpen,
		})
	}
	set, err := policy.NewSet(policies)
	require.NoError(t, err)
	return set
}

func matched(set *policy.Set, req policy.Request) string {
	p, err := set.Match(&req)
	switch {
	case err != nil:
		return err.Error()
	case p != nil:
		return p.Name
	}
	return ""
}

func TestSet_matchesMethodHostAndPath(t *testing.T) {
	set := setOf(t,
		policy.Match{Methods: []string{"GET"}, Host: "api.example.com", Path: "/api/search/**"}, // p0
		policy.Match{Host: "*.Example.com", Path: "/api/*/items"},                               // p1
		policy.Match{Methods: []string{"POST", "PUT"}, Path: "/api/**"},                         // p2
		policy.Match{Path: "/exact"},                                                            // p3
		policy.Match{Path: "/caf%c3%a9/@me"},                                                    // p4
		policy.Match{Path: "/"},                                                                 // p5
		policy.Match{Host: "only.example.org"},                                                  // p6
		policy.Match{Host: "[::1]", Path: "/six"},                                               // p7
	)
	for _, c := range []struct{ method, host, path, want string }{
		{"GET", "api.example.com", "/api/search", "p0"},
		{"GET", "api.example.com", "/api/search/", "p0"},
		{"GET", "api.example.com", "/api/search/a/b", "p0"},
		{"HEAD", "API.EXAMPLE.com:8080", "/api/search/a", "p0"},
		{"GET", "api.example.com.", "/api/search/a", "p0"},
		{"POST", "api.example.com", "/api/search/a", "p2"},
		{"GET", "api.example.com", "/api/searches", ""},
		{"GET", "api.example.com", "/API/search/a", ""},
		{"GET", "a.b.example.com", "/api/x/items", "p1"},
		{"POST", "www.example.com", "/api/x/items/", "p1"},
		{"GET", "example.com", "/api/x/items", ""},
		{"GET", ".example.com", "/api/x/items", ""},
		{"GET", "badexample.com", "/api/x/items", ""},
		{"GET", "www.example.com", "/api/x/y/items", ""},
		{"GET", "www.example.com", "/api/items", ""},
		{"PUT", "", "/api", "p2"},
		{"", "", "/exact", "p3"},
		{"", "", "/exact/", "p3"},
		{"", "", "/exact/more", ""},
		{"", "", "/caf%C3%A9/%40me", "p4"},
		{"", "", "/caf%C3%A9/@me", "p4"},
		{"", "", "/", "p5"},
		{"", "", "", "p5"},
		{"DELETE", "only.example.org", "/anything/at/all", "p6"},
		{"GET", "[::1]:3000", "/six", "p7"},
		{"GET", strings.Repeat("a", 5000), "/exact", "p3"},
		{"GET", strings.Repeat("a.", 5000), "/none", ""},
		{"GET", "", "/" + strings.Repeat("%41", 5000), ""},
	} {
		assert.Equal(t, c.want, matched(set, policy.Request{Method: c.method, Host: c.host, Path: c.path}), "%v", c)
	}
}

func TestSet_matchesDescriptorsEntryByEntry(t *testing.T) {
	set := setOf(t,
		policy.Match{Path: "/**"}, // p0
		policy.Match{Domain: "edge", Descriptor: descriptor(t, "generic_key=login", "remote_address")},              // p1
		policy.Match{Domain: "edge", Descriptor: descriptor(t, "generic_key", "remote_address")},                    // p2
		policy.Match{Domain: "edge", Descriptor: descriptor(t, "generic_key=login", "remote_address=192.0.2.1")},    // p3, behind p1
		policy.Match{Domain: "mesh", Descriptor: descriptor(t, "generic_key=login", "remote_address", "user=root")}, // p4
	)
	entry := func(k, v string) policy.DescriptorEntry { return policy.DescriptorEntry{Key: k, Value: v} }
	login, logout, address, root := entry("generic_key", "login"), entry("generic_key", "logout"), entry("remote_address", "192.0.2.1"), entry("user", "root")
	for _, c := range []struct {
		domain  string
		entries []policy.DescriptorEntry
		want    string
	}{
		{"edge", []policy.DescriptorEntry{login, address}, "p1"},
		{"edge", []policy.DescriptorEntry{logout, address}, "p2"},
		{"edge", []policy.DescriptorEntry{address, login}, ""},
		{"edge", []policy.DescriptorEntry{login}, ""},
		{"edge", nil, ""},
		{"edge", []policy.DescriptorEntry{login, address, root}, ""},
		{"mesh", []policy.DescriptorEntry{login, address, root}, "p4"},
		{"mesh", []policy.DescriptorEntry{login, address}, ""},
		{"other", []policy.DescriptorEntry{login, address}, ""},
	} {
		assert.Equal(t, c.want, matched(set, policy.Request{Domain: c.domain, Descriptor: c.entries, Path: "/a"}), "%v", c)
	}
}

// fits compares a request with one policy's match, field by field and segment by segment.
func fits(m policy.Match, req policy.Request) bool {
	method := strings.Replace(req.Method, "HEAD", "GET", 1)
	if len(m.Methods) > 0 && !slices.Contains(m.Methods, method) {
		return false
	}
	parent, subdomain := strings.CutPrefix(m.Host, "*")
	if subdomain && !strings.HasSuffix(req.Host, parent) || !subdomain && m.Host != "" && m.Host != req.Host {
		return false
	}
	segments := strings.Split(strings.Trim(req.Path, "/"), "/")
	patterns := strings.Split(strings.Trim(m.Path, "/"), "/")
	for i, pattern := range patterns {
		if pattern == "**" {
			return true
		}
		if i == len(segments) || pattern == "*" && segments[i] == "" {
			return false
		}
		want, _ := url.PathUnescape(pattern)
		got, _ := url.PathUnescape(segments[i])
		if pattern != "*" && want != got {
			return false
		}
	}
	return len(patterns) == len(segments)
}

// The index finds what asking every policy in turn would find.
func TestSet_agreesWithAWalkOverAllPolicies(t *testing.T) {
	methods := rapid.SampledFrom([]string{"GET", "POST", "HEAD", "PUT"})
	hosts := rapid.SampledFrom([]string{"", "a.com", "*.a.com", "b.a.com", "*.b.a.com"})
	segments := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*", "%61", "%40", "@"}), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		var list []policy.Match
		for range rapid.IntRange(1, 25).Draw(t, "policies") {
			m := policy.Match{Host: hosts.Draw(t, "host"), Path: "/" + strings.Join(segments.Draw(t, "path"), "/")}
			if method := methods.Draw(t, "method"); method != "HEAD" {
				m.Methods = []string{method}
			}
			if rapid.Bool().Draw(t, "deep") {
				m.Path = strings.TrimSuffix(m.Path, "/") + "/**"
			}
			list = append(list, m)
		}
		set := setOf(t, list...)
		for range 30 {
			req := policy.Request{
				Method: methods.Draw(t, "asked method"),
				Host:   strings.TrimPrefix(hosts.Draw(t, "asked host"), "*."),
				Path:   strings.ReplaceAll("/"+strings.Join(segments.Draw(t, "asked path"), "/"), "*", "c"),
			}
			want := ""
			for i := len(list) - 1; i >= 0; i-- {
				assert.Equal(t, fits(list[i], req), list[i].Mismatch(&req) == "", "%+v", list[i])
				if fits(list[i], req) {
					want = fmt.Sprintf("p%d", i)
				}
			}
			require.Equal(t, want, matched(set, req), "%+v among %+v", req, list)
		}
	})
}

func TestMismatch_namesTheField(t *testing.T) {
	m := policy.Match{Methods: []string{"GET"}, Host: "*.a.com", Path: "/x/*"}
	for want, req := range map[string]policy.Request{
		"":              {Method: "HEAD", Host: "b.a.com:1", Path: "/x/y"},
		"match.methods": {Method: "PUT", Host: "b.a.com", Path: "/x/y"},
		"match.host":    {Method: "GET", Host: "a.com", Path: "/x/y"},
		"match.path":    {Method: "GET", Host: "b.a.com", Path: "/x"},
		"match.domain":  {Domain: "edge"},
	} {
		assert.Equal(t, want, m.Mismatch(&req))
	}
	m = policy.Match{Domain: "edge", Descriptor: descriptor(t, "a", "b=c")}
	for _, entries := range [][]policy.DescriptorEntry{nil, {{"a", "x"}}, {{"a", "x"}, {"b", "x"}}, {{"z", "x"}, {"b", "c"}}} {
		assert.Equal(t, "match.descriptor", m.Mismatch(&policy.Request{Domain: "edge", Descriptor: entries}))
	}
	assert.Empty(t, m.Mismatch(&policy.Request{Domain: "edge", Descriptor: []policy.DescriptorEntry{{"a", "x"}, {"b", "c"}}}))
}

func TestNewSet_reportsWhatIsWrongWithEach(t *testing.T) {
	burst := []domain.Limit{named(t, "burst", 1)}
	_, err := policy.NewSet([]policy.Policy{
		{Name: "a", Limits: burst, OnStoreFailure: "open"}, {Name: "A", Limits: burst, OnStoreFailure: "open"}, {Name: "a", Limits: burst, OnStoreFailure: "open"},
	})
	require.ErrorContains(t, err, `policies[1]: name: "A"`)
	require.ErrorContains(t, err, `policies[2]: name: "a": there are two policies of this name`)
	_, err = policy.NewSet(nil)
	require.ErrorIs(t, err, domain.ErrInvalidPolicy)
}

// thousand policies, or n, with paths that begin differently.
func distinctPrefixes(t testing.TB, n int) *policy.Set {
	var list []policy.Match
	for i := range n - 1 {
		list = append(list, policy.Match{Methods: []string{"GET"}, Path: fmt.Sprintf("/service-%d/api/**", i)})
	}
	return setOf(t, append(list, policy.Match{Path: "/**"})...)
}

func BenchmarkSet_match(b *testing.B) {
	for _, n := range []int{10, 1000} {
		set := distinctPrefixes(b, n)
		req := policy.Request{Method: "GET", Host: "api.example.com", Path: fmt.Sprintf("/service-%d/api/search/items", n-2)}
		require.Equal(b, fmt.Sprintf("p%d", n-2), matched(set, req))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = set.Match(&req)
			}
		})
	}
}
