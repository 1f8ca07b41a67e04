package cleanpath_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
)

func TestNormalizePath_everySpellingHasOneForm(t *testing.T) {
	for path, want := range map[string]string{
		"":                              "/",
		"/":                             "/",
		"//":                            "/",
		"/.":                            "/",
		"/a/..":                         "/",
		"/a/../":                        "/",
		"/api/resource":                 "/api/resource",
		"/API/Resource":                 "/API/Resource",
		"/api/resource/":                "/api/resource/",
		"/api//resource":                "/api/resource",
		"/api/./resource":               "/api/resource",
		"/api/x/../resource":            "/api/resource",
		"/api/x//../resource":           "/api/resource",
		"/api/%72esource":               "/api/resource",
		"/api/%2e%2E/api/resource":      "/api/resource",
		"/api/%2E/resource":             "/api/resource",
		"/api/resource/.":               "/api/resource/",
		"/api/...":                      "/api/...",
		"/.well-known/x":                "/.well-known/x",
		"/..a/.b":                       "/..a/.b",
		"/caf%c3%a9":                    "/caf%C3%A9",
		"/caf\xc3\xa9":                  "/caf%C3%A9",
		"/a%3Bb;c":                      "/a%3Bb;c",
		"/a b|c":                        "/a%20b%7Cc",
		"/100%25":                       "/100%25",
		"/100%25zz":                     "/100%25zz",
		"/-._~!$&'()*+,;=:@":            "/-._~!$&'()*+,;=:@",
		"/%2D%2e_%7E":                   "/-._~",
		"/" + strings.Repeat("a/", 600): "/" + strings.Repeat("a/", 600),
	} {
		got, err := cleanpath.Normalize(path)
		require.NoError(t, err, path)
		assert.Equal(t, want, got, path)
	}
}

func TestNormalizePath_refusesWhatServersDisagreeAbout(t *testing.T) {
	for path, reason := range map[string]string{
		"/a%2fb":          "%2F",
		"/a%2Fb":          "%2F",
		"/a%5cb":          "%5C",
		"/a%00":           "%00",
		"/a\\b":           "backslash",
		"/a\x01":          "control",
		"/a\x7f":          "control",
		"/..":             "above the root",
		"/a/../../b":      "above the root",
		"/%2e%2e/b":       "above the root",
		"/a%2541":         "encoded twice",
		"/a%25%34%31":     "encoded twice",
		"/a%252e%252e/b":  "encoded twice",
		"/a%":             "two hex digits",
		"/a%4":            "two hex digits",
		"/a%zz":           "two hex digits",
		"a":               "start with a slash",
		"*":               "start with a slash",
		"example.com:443": "start with a slash",
	} {
		got, err := cleanpath.Normalize(path)
		require.Error(t, err, path)
		assert.Contains(t, err.Error(), reason, path)
		assert.Empty(t, got)
	}
}

func TestNormalizePath_normalPathsAllocateNothing(t *testing.T) {
	for _, path := range []string{"/", "/api/resource", "/.well-known/x", "/caf%C3%A9"} {
		assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = cleanpath.Normalize(path) }), path)
	}
}

func FuzzNormalizePath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%2e%2e/%72", "/a%25%34%31", "//a/./b//", "/\xff%C3", "/%", "a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, err := cleanpath.Normalize(path)
		if err != nil {
			assert.Empty(t, got)
			return
		}
		again, err := cleanpath.Normalize(got)
		require.NoError(t, err)
		assert.Equal(t, got, again, "the normal form of the normal form")
		assert.Equal(t, byte('/'), got[0])
		assert.NotContains(t, got, "//")
		for segment := range strings.SplitSeq(got, "/") {
			assert.NotContains(t, []string{".", ".."}, segment)
		}
		for _, c := range []byte(got) {
			assert.True(t, c > ' ' && c < 0x7f && c != '\\', "byte %#x", c)
		}
	})
}

func BenchmarkNormalizePath(b *testing.B) {
	for name, path := range map[string]string{
		"normal": "/api/v1/users/12345/orders", "escaped": "/api/v1/users/%31%32345/./orders", "utf8": "/caf%C3%A9/menu",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = cleanpath.Normalize(path)
			}
		})
	}
}
