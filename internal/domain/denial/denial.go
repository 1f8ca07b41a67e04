// Package denial describes the answer that a policy gives to a request which a limit denied, in place of the usual problem.
package denial

import (
	"encoding/json"
	"fmt"
	"html"
	"mime"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// MaxBody is the most bytes that a body can have before its placeholders are replaced.
const MaxBody = 64 << 10

// MinStatus and MaxStatus bound the status: those of errors.
const (
	MinStatus = 400
	MaxStatus = 599
)

// Answer is how denials by a limit are answered. Make it with [New]. It is immutable and safe for concurrent use.
type Answer struct {
	status      int
	contentType string
	escape      func(string) string
	pieces      []piece
}

// piece is a part of a body: text, and then perhaps a placeholder.
type piece struct {
	text        string
	placeholder placeholder
}

type placeholder uint8

const (
	noPlaceholder placeholder = iota
	retryAfter
	limit
	requestID
)

var placeholders = map[string]placeholder{"retry_after": retryAfter, "limit": limit, "request_id": requestID}

// New returns an answer with these parts. status is from MinStatus to MaxStatus; 0: the usual one. Without a body, which then has no
// contentType either, the body is the usual problem. In a body, {retry_after}, {limit} and {request_id} are replaced; see [Values]. A
// brace that encloses no word, of letters, digits, - and _, is text. The error joins every violation; each is a
// [domain.FieldError] of the field "status", "content_type" or "body".
func New(status int, contentType, body string) (*Answer, error) {
	a := &Answer{status: status}
	switch {
	case status == 0 && contentType == "" && body == "":
		return nil, invalid("denied", "", "must have a status or a body")
	case status != 0 && (status < MinStatus || status > MaxStatus):
		return nil, invalid("status", strconv.Itoa(status), fmt.Sprintf("must be from %d to %d", MinStatus, MaxStatus))
	case contentType == "" && body == "":
		return a, nil
	case contentType == "":
		return nil, invalid("content_type", "", "is missing: a body has one, such as text/html")
	case body == "":
		return nil, invalid("content_type", strconv.Quote(contentType), "has no effect without body or body_file")
	}
	media, err := a.setContentType(contentType)
	if err != nil {
		return nil, err
	}
	if err := a.setBody(body); err != nil {
		return nil, err
	}
	if isJSON(media) && !json.Valid(a.AppendBody(nil, Values{RequestID: "x"})) {
		return nil, invalid("body", "", "must be JSON, since content_type says so: {request_id} stands inside quotes")
	}
	return a, nil
}

// setContentType sets the media type, and how values are escaped in it.
func (a *Answer) setContentType(s string) (media string, err error) {
	const rule = "must be a media type, such as text/html or application/json"
	media, params, err := mime.ParseMediaType(s)
	kind, name, _ := strings.Cut(media, "/")
	if err != nil || kind == "" || name == "" || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", invalid("content_type", strconv.Quote(s), rule)
	}
	if charset, given := params["charset"]; given && !strings.EqualFold(charset, "utf-8") {
		return "", invalid("content_type", strconv.Quote(s), "must have the charset utf-8, or none: the body is UTF-8")
	} else if a.contentType = s; !given && kind == "text" {
		a.contentType += "; charset=utf-8"
	}
	switch {
	case isJSON(media):
		a.escape = escapeJSON
	case media == "text/html", media == "application/xml", media == "text/xml", strings.HasSuffix(media, "+xml"):
		a.escape = html.EscapeString
	default:
		a.escape = func(s string) string { return s }
	}
	return media, nil
}

func isJSON(media string) bool {
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// escapeJSON makes a text the inside of a JSON string. It may stand in a page's script, too.
func escapeJSON(s string) string {
	quoted, _ := json.Marshal(s) // a string never fails
	return string(quoted[1 : len(quoted)-1])
}

// setBody divides a body at its placeholders.
func (a *Answer) setBody(body string) error {
	switch {
	case len(body) > MaxBody:
		return invalid("body", fmt.Sprintf("%d bytes", len(body)), fmt.Sprintf("must have at most %d bytes", MaxBody))
	case !utf8.ValidString(body):
		return invalid("body", "", "must be text in UTF-8")
	}
	rest, from := body, 0
	for {
		open := strings.IndexByte(rest[from:], '{')
		if open < 0 {
			a.pieces = append(a.pieces, piece{text: rest})
			return nil
		}
		open += from
		length := strings.IndexByte(rest[open:], '}')
		if length < 0 || !isName(rest[open+1:open+length]) {
			from = open + 1
			continue
		}
		name := rest[open+1 : open+length]
		known, ok := placeholders[name]
		if !ok {
			line := 1 + strings.Count(body[:len(body)-len(rest)+open], "\n")
			return invalid("body", strconv.Quote("{"+name+"}"), fmt.Sprintf("is no placeholder, on line %d of the body: they are {retry_after}, "+
				"{limit} and {request_id}; other braces are text if they have a space inside, as in { %s }", line, name))
		}
		a.pieces = append(a.pieces, piece{rest[:open], known})
		rest, from = rest[open+length+1:], 0
	}
}

// isName reports whether s can be the name of a placeholder.
func isName(s string) bool {
	letter := func(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
	for i := range len(s) {
		if c := s[i]; !letter(c) && (i == 0 || c != '-' && c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != ""
}

// Status returns the status; 0: the usual one.
func (a *Answer) Status() int { return a.status }

// HasBody reports whether the answer has a body of its own.
func (a *Answer) HasBody() bool { return len(a.pieces) > 0 }

// ContentType returns the media type of the body; "" if there is none. Types of text have charset=utf-8.
func (a *Answer) ContentType() string { return a.contentType }

// Values are what placeholders stand for in one answer.
type Values struct {
	// RetryAfter is the header Retry-After, in seconds; -1 if the request can never pass.
	RetryAfter int64
	// Limit is the header X-RateLimit-Limit, in tokens.
	Limit domain.Tokens
	// RequestID is the header X-Request-Id.
	RequestID string
}

// AppendBody appends the body to dst, with the values in place of its placeholders.
func (a *Answer) AppendBody(dst []byte, v Values) []byte {
	for i := range a.pieces {
		dst = append(dst, a.pieces[i].text...)
		switch a.pieces[i].placeholder {
		case noPlaceholder:
		case retryAfter:
			dst = strconv.AppendInt(dst, v.RetryAfter, 10)
		case limit:
			dst = strconv.AppendInt(dst, int64(v.Limit), 10)
		case requestID:
			dst = append(dst, a.escape(v.RequestID)...)
		}
	}
	return dst
}

func invalid(field, value, reason string) *domain.FieldError {
	return &domain.FieldError{Kind: domain.ErrInvalidPolicy, Field: field, Value: value, Reason: reason}
}
