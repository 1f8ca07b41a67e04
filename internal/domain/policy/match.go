package policy

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// Match selects the requests to which a policy applies: those that match every field that is set. A policy is for HTTP
// requests (Methods, Host, Path, Headers) or for Envoy's descriptors (Domain, Descriptor), never for both. The zero Match
// matches every HTTP request.
type Match struct {
	// Methods, in upper case. HEAD is decided as GET, so it cannot be listed. Empty: any.
	Methods []string
	// Host is a name, or *.NAME for every subdomain. Case and port are ignored. Empty: any.
	Host string
	// Path is a pattern: segments that must be equal once decoded, * for any one segment, and at the end ** for any
	// number of segments, also none. A slash at the end of a path is ignored. Empty: any.
	Path string
	// Headers are conditions that must all fit. Their sources are headers, which are believed from any peer, as a path is: a
	// match chooses a policy, and what gives a client more belongs to Override.When.
	Headers []Condition
	// Domain is the domain of the Envoy request.
	Domain string
	// Descriptor matches the entries of the Envoy request's descriptor: the same number, in this order.
	Descriptor []DescriptorPattern
}

// DescriptorPattern is one entry of a [Match.Descriptor].
type DescriptorPattern struct {
	Key string
	// Value that the entry must have. Nil: any value, which is then part of the client's key.
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

// ParseDescriptorPattern reads "NAME", which matches any value, or "NAME=VALUE".
func ParseDescriptorPattern(s string) (DescriptorPattern, error) {
	key, value, fixed := strings.Cut(s, "=")
	p := DescriptorPattern{Key: key}
	if fixed {
		p.Value = &value
	}
	if !p.valid() {
		return DescriptorPattern{}, invalid("match.descriptor", strconv.Quote(s), descriptorPatternForm)
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

// plain reports whether s has no control character and at most longest bytes.
func plain(s string, longest int) bool {
	return len(s) <= longest && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// ForEnvoy reports whether the match is for Envoy's descriptors.
func (m *Match) ForEnvoy() bool { return m.Domain != "" || len(m.Descriptor) > 0 }

// forHTTP reports whether the match asks for what only HTTP requests have.
func (m *Match) forHTTP() bool {
	return len(m.Methods) > 0 || m.Host != "" || m.Path != "" || len(m.Headers) > 0
}

// DescriptorValue is the value of a descriptor's key: the values of those entries for which the match accepts any
// value, joined as [clientkey.ListValue] does. For a match without a Descriptor, it is all entries with their names.
func (m *Match) DescriptorValue(entries []DescriptorEntry) string {
	var buf [MaxDescriptorEntries]clientkey.Part
	open := buf[:0]
	for i := range entries {
		switch {
		case len(m.Descriptor) == 0:
			open = append(open, clientkey.Part{Value: entries[i].Key}, clientkey.Part{Value: entries[i].Value})
		case i < len(m.Descriptor) && m.Descriptor[i].Value == nil:
			open = append(open, clientkey.Part{Value: entries[i].Value})
		}
	}
	return clientkey.ListValue(open)
}

// CheckMethod returns an error unless s is a method that a [Match] can have.
func CheckMethod(s string) error {
	bad := func(reason string) error {
		return invalid("match.methods", strconv.Quote(s), reason)
	}
	if s == "HEAD" {
		return bad("HEAD is decided as GET: write GET")
	}
	if s == "" || len(s) > longestMethod || strings.ContainsFunc(s, func(r rune) bool { return (r < 'A' || r > 'Z') && r != '-' }) {
		if upper := strings.ToUpper(s); upper != s && CheckMethod(upper) == nil {
			return bad("must be in upper case: write " + upper)
		}
		return bad("must be a method in upper case, as in GET")
	}
	return nil
}

// CheckHost returns an error unless s is a host or *. and a host.
func CheckHost(s string) error {
	name := strings.TrimPrefix(s, "*.")
	if name == "" || len(s) > longestHost || name[0] == '.' || strings.HasSuffix(name, ".") || !validHostName(name) {
		return invalid("match.host", strconv.Quote(s), "must be a host name, or *. and a host name, without scheme and port")
	}
	return nil
}

// validHostName accepts names, IPv4 addresses and IPv6 addresses in brackets.
func validHostName(s string) bool {
	if inner, literal := strings.CutPrefix(s, "["); literal {
		inner, closed := strings.CutSuffix(inner, "]")
		return closed && inner != "" && strings.Trim(inner, "0123456789abcdefABCDEF:.") == ""
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r|0x20 < 'a' || r|0x20 > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-._", r)
	})
}

// CheckPath returns an error unless s is a pattern for paths; see [Match.Path].
func CheckPath(s string) error {
	bad := func(reason string) error {
		return invalid("match.path", strconv.Quote(s), reason)
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

// checkSegment returns why no path can have this segment, or "". Segments are compared decoded, so that both spellings
// are accepted.
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

// check returns every violation, and nil for fields that are right. secret says that values of headers are not to be shown.
func (m *Match) check(secret bool) (errs []error) {
	bad := func(field, value, reason string) {
		errs = append(errs, invalid(field, value, reason))
	}
	if len(m.Methods) > MaxMethods {
		bad("match.methods", strconv.Itoa(len(m.Methods)), "there must be at most "+strconv.Itoa(MaxMethods)+" of them")
	}
	for i, method := range m.Methods {
		errs = append(errs, CheckMethod(method))
		if slices.Contains(m.Methods[:i], method) {
			bad("match.methods", strconv.Quote(method), "is repeated")
		}
	}
	if m.Host != "" {
		errs = append(errs, CheckHost(m.Host))
	}
	if m.Path != "" {
		errs = append(errs, CheckPath(m.Path))
	}
	errs = append(errs, checkConditions("match.headers", m.Headers, secret)...)
	for _, c := range m.Headers {
		if c.Source.Kind != clientkey.SourceHeader {
			bad("match.headers", strconv.Quote(c.Source.String()), "must be a header")
		}
	}
	if !m.ForEnvoy() {
		return errs
	}
	if m.forHTTP() {
		bad("match", "", "must have either domain and descriptor or any of methods, host, path and headers")
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

// Mismatch returns the first field that does not match the request, as a policy file names it, for example
// "match.path". It returns "" if the request matches, or if a header on which that depends was sent twice. It explains a result to people; [Set.Match] matches requests.
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
	for _, part := range []struct {
		field string
		match Match
	}{
		{"match.methods", Match{Methods: m.Methods}},
		{"match.host", Match{Host: m.Host}},
		{"match.path", Match{Path: m.Path}},
		{"match.headers", Match{Headers: m.Headers}},
	} {
		var index httpIndex
		index.add(&part.match, 0)
		if order, err := index.find(req); order == noPolicy && err == nil {
			return part.field
		}
	}
	return ""
}
