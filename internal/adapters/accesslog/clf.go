package accesslog

import (
	"bytes"
	"encoding/hex"
)

// parseCommon reads a line of the Common or the Combined Log Format:
//
//	host ident user [time] "request" status bytes "referer" "user agent" ...
//
// Only the Combined Log Format has the last two. Apache's vhost_combined has the server's name in front.
func (e *entry) parseCommon(line []byte) error {
	begin := bytes.Index(line, []byte(" ["))
	if begin < 0 {
		return errNoTime
	}
	head, rest := line[:begin], line[begin+2:]
	end := bytes.IndexByte(rest, ']')
	if end < 0 {
		return errNoTime
	}
	var ok bool
	if e.At, ok = parseLogTime(rest[:end]); !ok {
		return errTime
	}
	request, rest, ok := e.quoted(rest[end+1:])
	if !ok {
		return errNoRequest
	}
	if err := e.setRequestLine(request); err != nil {
		return err
	}
	status, rest := word(rest)
	if err := e.setStatus(status); err != nil {
		return err
	}
	_, rest = word(rest) // the size of the answer
	if value, more, ok := e.quoted(rest); ok {
		e.addHeader(headerReferer, value)
		if value, _, ok = e.quoted(more); ok {
			e.addHeader(headerUserAgent, value)
		}
	}
	first, head := word(head)
	if err := e.setClient(first); err == nil {
		return nil
	}
	second, _ := word(head)
	if err := e.setClient(second); err != nil {
		return err
	}
	e.Request.Host = text(first)
	return nil
}

var headerReferer, headerUserAgent = []byte("referer"), []byte("user-agent")

// setRequestLine parses a request line, such as "GET /path HTTP/1.1".
func (e *entry) setRequestLine(line []byte) error {
	method, target := word(line)
	target = bytes.Trim(target, " ")
	if protocol := bytes.LastIndexByte(target, ' '); protocol >= 0 && bytes.HasPrefix(target[protocol+1:], []byte("HTTP/")) {
		target = target[:protocol]
	}
	if len(target) == 0 {
		return errRequest
	}
	e.target = target
	return e.setMethod(method)
}

// word splits b at the next space.
func word(b []byte) (first, rest []byte) {
	b = bytes.TrimLeft(b, " ")
	if i := bytes.IndexByte(b, ' '); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}

// quoted splits b after a text in double quotes, and decodes its escapes. b stays as it is: examples show the line.
func (e *entry) quoted(b []byte) (value, rest []byte, ok bool) {
	b = bytes.TrimLeft(b, " ")
	if len(b) == 0 || b[0] != '"' {
		return nil, b, false
	}
	b = b[1:]
	end := bytes.IndexByte(b, '"')
	if end < 0 {
		return nil, b, false
	}
	if bytes.IndexByte(b[:end], '\\') < 0 {
		return b[:end], b[end+1:], true
	}
	for end = 0; end < len(b) && b[end] != '"'; end++ {
		if b[end] == '\\' {
			end++
		}
	}
	if end >= len(b) {
		return nil, b, false
	}
	from := len(e.spare)
	e.spare = appendUnescaped(e.spare, b[:end])
	return e.spare[from:len(e.spare):len(e.spare)], b[end+1:], true
}

// appendUnescaped decodes the escapes of Apache and nginx: \xHH, \", \\, \n, \r and \t. Any other escaped character stands
// for itself.
func appendUnescaped(out, b []byte) []byte {
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c != '\\' || i+1 == len(b) {
			out = append(out, c)
			continue
		}
		i++
		switch c = b[i]; c {
		case 'x':
			if i+2 < len(b) {
				if c, ok := hexByte(b[i+1:]); ok {
					out = append(out, c)
					i += 2
					continue
				}
			}
			out = append(out, '\\', 'x')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		default:
			out = append(out, c)
		}
	}
	return out
}

// hexByte decodes the two hex digits that b begins with.
func hexByte(b []byte) (byte, bool) {
	var out [1]byte
	_, err := hex.Decode(out[:], b[:2])
	return out[0], err == nil
}
