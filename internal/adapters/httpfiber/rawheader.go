package httpfiber

import (
	"bytes"
	"strings"

	"github.com/gofiber/fiber/v2/utils"
	"github.com/valyala/fasthttp"
)

// headerLine is one line of a request's header as it was sent.
type headerLine struct{ name, value []byte }

// rawHeader reads the lines of a header, which checkLines has passed, one after the other. fasthttp has checked most of
// it; what it lets pass and other servers read in another way is refused here, before anything is forwarded.
type rawHeader struct{ rest []byte }

// next returns false at the end of the header.
func (r *rawHeader) next() (line headerLine, ok bool, err error) {
	end := bytes.IndexByte(r.rest, '\n')
	switch {
	case len(r.rest) == 0 || end == 1 && r.rest[0] == '\r':
		return line, false, nil
	case end < 1:
		return line, false, badHeader("a line does not end in CR and LF")
	}
	text := r.rest[:end-1]
	r.rest = r.rest[end+1:]
	colon := bytes.IndexByte(text, ':')
	if colon < 1 {
		return line, false, badHeader("a line has no name")
	}
	line.name, line.value = text[:colon], bytes.Trim(text[colon+1:], " \t")
	for _, c := range line.name {
		if !tokenByte[c] {
			return line, false, badHeader("a name holds a character that no name has")
		}
	}
	for _, c := range line.value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return line, false, badHeader("a value holds a control character")
		}
	}
	return line, true, nil
}

// checkLines refuses lines that end in LF alone, or go on in the next: servers disagree about what they are.
func checkLines(raw []byte) error {
	for at := 0; ; {
		end := bytes.IndexByte(raw[at:], '\n')
		if end < 0 {
			return nil
		}
		end += at
		switch at = end + 1; {
		case end == 0 || raw[end-1] != '\r':
			return badHeader("a line does not end in CR and LF")
		case at < len(raw) && (raw[at] == ' ' || raw[at] == '\t'):
			return badHeader("a line is folded")
		}
	}
}

func badHeader(reason string) error { return &inputError{errMalformed, "header", reason} }

// tokenByte holds the characters of a token (RFC 9110 section 5.6.2).
var tokenByte = func() (set [256]bool) {
	for c := range set {
		set[c] = '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80 ||
			bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0
	}
	return set
}()

// listed calls f for each member of a comma-separated list.
func listed(value []byte, f func(member []byte)) {
	for more := true; more; {
		var member []byte
		member, value, more = bytes.Cut(value, []byte(","))
		if member = bytes.Trim(member, " \t"); len(member) > 0 {
			f(member)
		}
	}
}

// hasToken reports whether a list of tokens holds one, in any case.
func hasToken(value []byte, token string) bool {
	found := false
	listed(value, func(member []byte) { found = found || equalFold(member, token) })
	return found
}

func equalFold(b []byte, s string) bool { return strings.EqualFold(utils.UnsafeString(b), s) }

// validHost reports whether a Host can be quoted in a header: the characters of names, addresses and ports.
func validHost(host []byte) bool {
	for _, c := range host {
		if !unreserved(c) && c != ':' && c != '[' && c != ']' && c != '%' {
			return false
		}
	}
	return len(host) > 0
}

// validQuery refuses what would end the request line early at a server that reads it otherwise.
func validQuery(query []byte) bool {
	for _, c := range query {
		if c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// rawQuery is the query of a request target, as it was sent.
func rawQuery(h *fasthttp.RequestHeader) []byte {
	_, query, found := bytes.Cut(h.RequestURI(), []byte("?"))
	if !found {
		return nil
	}
	query, _, _ = bytes.Cut(query, []byte("#"))
	return query
}
