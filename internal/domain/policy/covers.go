package policy

import (
	"slices"
	"strings"
)

// Covers reports whether m matches every request that other matches, so that a policy with other never applies after a
// policy with m. It reports false for descriptors of Envoy.
func (m *Match) Covers(other *Match) bool {
	return !m.ForEnvoy() && !other.ForEnvoy() && methodsCover(m.Methods, other.Methods) &&
		hostCovers(strings.ToLower(m.Host), strings.ToLower(other.Host)) && pathCovers(m.Path, other.Path) && headersCover(m.Headers, other.Headers)
}

// headersCover reports whether each condition is fulfilled by whatever fulfils the others.
func headersCover(conditions, others []Condition) bool {
	narrower := func(c, other Condition) bool {
		return c.Source == other.Source && !slices.ContainsFunc(other.Values, func(v string) bool { return !slices.Contains(c.Values, v) })
	}
	return !slices.ContainsFunc(conditions, func(c Condition) bool {
		return !slices.ContainsFunc(others, func(other Condition) bool { return narrower(c, other) })
	})
}

func methodsCover(methods, others []string) bool {
	return len(methods) == 0 ||
		len(others) > 0 && !slices.ContainsFunc(others, func(m string) bool { return !slices.Contains(methods, m) })
}

func hostCovers(host, other string) bool {
	parent, below := strings.CutPrefix(host, "*.")
	return host == "" || host == other || below && strings.HasSuffix(other, "."+parent)
}

// pathCovers compares segments as they are written: it may miss a path that covers another one written with escapes.
func pathCovers(path, other string) bool {
	if path == "" {
		return true
	}
	if other == "" {
		other = "/**"
	}
	path, other = strings.Trim(path, "/"), strings.Trim(other, "/")
	for path != "" {
		var segment, against string
		segment, path, _ = strings.Cut(path, "/")
		if segment == "**" {
			return true
		}
		against, other, _ = strings.Cut(other, "/")
		if against == "" || against == "**" || segment != "*" && segment != against {
			return false
		}
	}
	return other == ""
}
