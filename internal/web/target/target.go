// Package target checks the method, host and query of a request, which servers must not read in different ways.
package target

import (
	"slices"
	"strings"

	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// methods are the registered methods that clients use. Policies compare methods with their case.
var methods = []string{
	"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "QUERY",
	"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH",
}

// CheckMethod refuses a method that is a known one in another case, such as Post: policies would take it for another method,
// and the server that answers it perhaps for the known one. The error wraps problem.ErrMalformed.
func CheckMethod(method string) error {
	lower := func(c rune) bool { return 'a' <= c && c <= 'z' }
	if !strings.ContainsFunc(method, lower) || !slices.Contains(methods, strings.ToUpper(method)) {
		return nil
	}
	return problem.Input(problem.ErrMalformed, "method", "must be in upper case")
}

// ValidHost reports whether a Host can be quoted in a header: the characters of names, addresses and ports, at least one.
func ValidHost(host string) bool {
	for i := range len(host) {
		if c := host[i]; !cleanpath.Unreserved(c) && c != ':' && c != '[' && c != ']' && c != '%' {
			return false
		}
	}
	return host != ""
}

// Split returns path and query of a request target, as they were sent: of /path?query or http://host/path?query. It refuses a
// fragment, which is no part of a target, and what would end the request line early at a server that reads it otherwise. The
// error wraps problem.ErrMalformed.
func Split(uri string) (path, query string, err error) {
	for i := range len(uri) {
		if c := uri[i]; c <= ' ' || c == 0x7f || c == '#' {
			return "", "", problem.Input(problem.ErrMalformed, "target", "holds a space, a control character or a fragment")
		}
	}
	if uri == "" || uri[0] != '/' {
		scheme, rest, absolute := strings.Cut(uri, "://")
		if !absolute || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
			return "", "", problem.Input(problem.ErrMalformed, "target", "must be a path, or http:// and a path")
		}
		at := strings.IndexAny(rest, "/?")
		if at < 0 {
			at = len(rest)
		}
		uri = rest[at:]
	}
	path, query, _ = strings.Cut(uri, "?")
	return path, query, nil
}
