package main

import (
	"slices"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// hiddenBy returns an earlier policy that takes every request that p could match; nil if there is none. Several that
// do so together are not found.
func hiddenBy(p *domain.Policy, earlier []*domain.Policy) *domain.Policy {
	for _, e := range earlier {
		if covers(&e.Match, &p.Match) {
			return e
		}
	}
	return nil
}

// covers reports whether every request that b matches is matched by a. For Envoy's, whose order matters less, it does
// not try.
func covers(a, b *domain.Match) bool {
	return !a.ForEnvoy() && !b.ForEnvoy() && coversMethods(a.Methods, b.Methods) && coversHost(a.Host, b.Host) &&
		coversPath(a.Path, b.Path)
}

func coversMethods(a, b []string) bool {
	return len(a) == 0 || len(b) > 0 && !slices.ContainsFunc(b, func(m string) bool { return !slices.Contains(a, m) })
}

func coversHost(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	below, wild := strings.CutPrefix(a, "*.")
	return a == "" || a == b || wild && strings.HasSuffix(b, "."+below)
}

func coversPath(a, b string) bool {
	if a == "" || a == b {
		return true
	}
	if b == "" {
		b = "/**"
	}
	as, bs := segmentsOf(a), segmentsOf(b)
	for i, segment := range as {
		switch {
		case segment == "**":
			return true
		case i == len(bs), bs[i] == "**":
			return false
		case segment != "*" && segment != bs[i]:
			return false
		}
	}
	return len(as) == len(bs)
}

// segmentsOf has none for the root.
func segmentsOf(path string) []string {
	if path = strings.Trim(path, "/"); path == "" {
		return nil
	}
	return strings.Split(path, "/")
}
