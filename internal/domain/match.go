package domain

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Match says which requests a policy applies to: those that fulfil every field that is set. A policy is for HTTP
// requests (Methods, Host, Path) or for Envoy's descriptors (Domain, Descriptor), never for both. The zero Match takes
// every HTTP request.
type Match struct {
	// Methods, in upper case. HEAD is decided as GET, and so is none of them. Empty: any.
	Methods []string
	// Host is a name, or *.NAME for every name below it; case and port do not count. Empty: any.
	Host string
	// Path is a pattern for the path: segments that must be the same once decoded, * for any one segment, and at the end
	// ** for any number of them, none included. A slash at a path's end does not count. Empty: any.
	Path string
	// Domain is the Envoy request's, exactly.
	Domain string
	// Descriptor has exactly the entries of the Envoy request's descriptor, in this order.
	Descriptor []DescriptorPattern
}

// DescriptorPattern is one entry of a [Match.Descriptor].
type DescriptorPattern struct {
	Key string
	// Value that the entry must have. Nil: any value, which then belongs to the policy's key.
	Value *string
}

// DescriptorEntry is one entry of an Envoy request's descriptor.
type DescriptorEntry struct{ Key, Value string }

// Bounds of a [Match].
const (
	MaxMethods            = 32
	MaxDescriptorEntries  = 32
	maxPathPattern        = 1024
	maxDescriptorText     = 256
	longestMethod         = 32
	longestHost           = 253
	descriptorPatternForm = "must be NAME or NAME=VALUE, of at most 256 bytes, without control characters"
)

// ParseDescriptorPattern reads "NAME", which takes any value, or "NAME=VALUE".
func ParseDescriptorPattern(s string) (DescriptorPattern, error) {
	key, value, fixed := strings.Cut(s, "=")
	p := DescriptorPattern{Key: key}
	if fixed {
		p.Value = &value
	}
	if !p.valid() {
		return DescriptorPattern{}, &FieldError{ErrInvalidPolicy, "match.descriptor", strconv.Quote(s), descriptorPatternForm}
	}
	return p, nil
}

func (p DescriptorPattern) valid() bool {
	return p.Key != "" && plain(p.Key, maxDescriptorText) && (p.Value == nil || plain(*p.Value, maxDescriptorText))
}

// String is the form that [ParseDescriptorPattern] reads.
func (p DescriptorPattern) String() string {
	if p.Value == nil {
		return p.Key
	}
	return p.Key + "=" + *p.Value
}

// plain reports whether s has no control character and is no longer than that.
func plain(s string, longest int) bool {
	return len(s) <= longest && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// ForEnvoy reports whether the match is for Envoy's descriptors.
func (m *Match) ForEnvoy() bool { return m.Domain != "" || len(m.Descriptor) > 0 }

// DescriptorValue is the value of a descriptor's key: what the entries hold for which the match takes any value, joined
// as [ListValue] does. A match without a Descriptor takes all as they are, with their names.
func (m *Match) DescriptorValue(entries []DescriptorEntry) string {
	var room [MaxDescriptorEntries]KeyPart
	open := room[:0]
	for i := range entries {
		switch {
		case len(m.Descriptor) == 0:
			open = append(open, KeyPart{Value: entries[i].Key}, KeyPart{Value: entries[i].Value})
		case i < len(m.Descriptor) && m.Descriptor[i].Value == nil:
			open = append(open, KeyPart{Value: entries[i].Value})
		}
	}
	return ListValue(open)
}

// CheckMethod refuses what is no method that a [Match] can name.
func CheckMethod(s string) error {
	bad := func(reason string) error {
		return &FieldError{ErrInvalidPolicy, "match.methods", strconv.Quote(s), reason}
	}
	if s == "HEAD" {
		return bad("HEAD is decided as GET: write GET")
	}
	if s == "" || len(s) > longestMethod || strings.ContainsFunc(s, func(r rune) bool { return (r < 'A' || r > 'Z') && r != '-' }) {
		return bad("must be a method in upper case, as in GET")
	}
	return nil
}

// CheckHost refuses what is no pattern of hosts.
func CheckHost(s string) error {
	name := strings.TrimPrefix(s, "*.")
	if name == "" || len(s) > longestHost || name[0] == '.' || strings.HasSuffix(name, ".") || !validHostName(name) {
		return &FieldError{
			ErrInvalidPolicy, "match.host", strconv.Quote(s),
			"must be a host name, or *. and a host name, without scheme and port",
		}
	}
	return nil
}

// validHostName takes names, IPv4 addresses and IPv6 addresses in brackets.
func validHostName(s string) bool {
	if inner, literal := strings.CutPrefix(s, "["); literal {
		inner, closed := strings.CutSuffix(inner, "]")
		return closed && inner != "" && strings.Trim(inner, "0123456789abcdefABCDEF:.") == ""
	}
	return validSourceName(s[:min(len(s), maxSourceName)], "-._") && validSourceName(s[len(s)-min(len(s), maxSourceName):], "-._")
}

// CheckPath refuses what is no pattern of paths.
func CheckPath(s string) error {
	bad := func(reason string) error {
		return &FieldError{ErrInvalidPolicy, "match.path", strconv.Quote(s), reason}
	}
	if !strings.HasPrefix(s, "/") {
		return bad("must start with a slash")
	}
	if len(s) > maxPathPattern {
		return bad("must have at most " + strconv.Itoa(maxPathPattern) + " bytes")
	}
	segments := strings.Split(s[1:], "/")
	for i, segment := range segments {
		last := i == len(segments)-1
		switch {
		case segment == "" && !last, segment == ".", segment == "..":
			return bad("has an empty segment, . or .., which no path in its normal form has")
		case segment == "**" && !last:
			return bad("may have ** at its end only")
		case segment == "*" || segment == "**":
		case strings.Contains(segment, "*"):
			return bad("has a * that is not a segment of its own")
		default:
			if reason := checkSegment(segment); reason != "" {
				return bad(reason)
			}
		}
	}
	return nil
}

// checkSegment returns why no path has this segment; "" if one may. Segments are compared decoded, so that they may be
// written either way.
func checkSegment(s string) string {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if _, err := url.PathUnescape(s[i:min(i+3, len(s))]); err != nil {
				return "has a % that is not followed by two hex digits"
			}
		case c == '{' || c == '}':
			return "has a brace: a * stands for any segment"
		case c <= ' ' || c == 0x7f || strings.IndexByte("?#\\\"<>^`|", c) >= 0:
			return "has " + strconv.QuoteRune(rune(c)) + ", which no path has: it must be percent-encoded"
		}
	}
	return ""
}

// check reports every violation.
func (m *Match) check() (errs []error) {
	bad := func(field, value, reason string) {
		errs = append(errs, &FieldError{ErrInvalidPolicy, field, value, reason})
	}
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(m.Methods) > MaxMethods {
		bad("match.methods", strconv.Itoa(len(m.Methods)), "there must be at most "+strconv.Itoa(MaxMethods)+" of them")
	}
	for i, method := range m.Methods {
		add(CheckMethod(method))
		if slices.Contains(m.Methods[:i], method) {
			bad("match.methods", strconv.Quote(method), "stands twice")
		}
	}
	if m.Host != "" {
		add(CheckHost(m.Host))
	}
	if m.Path != "" {
		add(CheckPath(m.Path))
	}
	if !m.ForEnvoy() {
		return errs
	}
	if len(m.Methods) > 0 || m.Host != "" || m.Path != "" {
		bad("match", "", "must have either domain and descriptor or any of methods, host and path")
	}
	if m.Domain == "" {
		bad("match.domain", "", "is missing: a descriptor is matched within its domain")
	} else if !plain(m.Domain, maxDescriptorText) {
		bad("match.domain", strconv.Quote(m.Domain), "must have at most 256 bytes and no control characters")
	}
	if n := len(m.Descriptor); n < 1 || n > MaxDescriptorEntries {
		bad("match.descriptor", "", "there must be from 1 to "+strconv.Itoa(MaxDescriptorEntries)+" entries, there are "+strconv.Itoa(n))
	}
	for _, entry := range m.Descriptor {
		if !entry.valid() {
			bad("match.descriptor", strconv.Quote(entry.String()), descriptorPatternForm)
		}
	}
	return errs
}

// Mismatch returns the field of the match that keeps a request out, as a policy file names it, for example
// "match.path"; "" if the policy would apply to the request, were it the only one. It is meant for people who ask why;
// requests are matched by [PolicySet.Match].
func (m *Match) Mismatch(req *Request) string {
	switch {
	case m.Domain != req.Domain:
		return "match.domain"
	case !m.ForEnvoy():
		return m.mismatchHTTP(req)
	case len(m.Descriptor) != len(req.Descriptor):
		return "match.descriptor"
	}
	for i, p := range m.Descriptor {
		if p.Key != req.Descriptor[i].Key || p.Value != nil && *p.Value != req.Descriptor[i].Value {
			return "match.descriptor"
		}
	}
	return ""
}

func (m *Match) mismatchHTTP(req *Request) string {
	if len(m.Methods) > 0 && !slices.Contains(m.Methods, matchedMethod(req.Method)) {
		return "match.methods"
	}
	if m.Host != "" {
		host, _ := lowerHost(make([]byte, 0, len(req.Host)), req.Host)
		want := strings.ToLower(m.Host)
		parent, below := strings.CutPrefix(want, "*.")
		if below && !strings.HasSuffix(string(host), "."+parent) || below && len(host) <= len(parent)+1 || !below && want != string(host) {
			return "match.host"
		}
	}
	if m.Path != "" && !pathFits(m.Path, req.Path) {
		return "match.path"
	}
	return ""
}

func pathFits(pattern, path string) bool {
	patterns, segments := segmentsOf(pattern), segmentsOf(path)
	for i, p := range patterns {
		switch {
		case p == "**":
			return true
		case i >= len(segments):
			return false
		case p != "*" && string(appendUnescaped(nil, p)) != string(appendUnescaped(nil, segments[i])):
			return false
		}
	}
	return len(patterns) == len(segments)
}

func segmentsOf(path string) []string {
	path = strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}
