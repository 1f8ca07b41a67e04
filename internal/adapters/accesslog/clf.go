package accesslog

import "bytes"

// parseCommon reads a line of the Common or the Combined Log Format:
//
//	host ident user [time] "request" status bytes "referer" "user agent" and whatever else
//
// The last two are Combined's. Apache's vhost_combined has the server's name in front.
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
	request, rest, ok := quoted(rest[end+1:])
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
	_, rest = word(rest) // how long the answer was
	if value, more, ok := quoted(rest); ok {
		e.addHeader(headerReferer, value)
		if value, _, ok = quoted(more); ok {
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
	e.setHost(first)
	return nil
}

var headerReferer, headerUserAgent = []byte("referer"), []byte("user-agent")

// word cuts off what comes before the next space.
func word(b []byte) (first, rest []byte) {
	b = bytes.TrimLeft(b, " ")
	if i := bytes.IndexByte(b, ' '); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}

// quoted cuts off a text in double quotes, and takes its escapes away in place.
func quoted(b []byte) (value, rest []byte, ok bool) {
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
	return unescaped(b[:end]), b[end+1:], true
}

// unescaped undoes what Apache and nginx do to a text in quotes: \xHH, \" and \\, and C's letters. What is none of
// these stands for itself. The result is in the same memory, since it is never longer.
func unescaped(b []byte) []byte {
	out := b[:0]
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
				hi, ok1 := hexDigit(b[i+1])
				lo, ok2 := hexDigit(b[i+2])
				if ok1 && ok2 {
					out = append(out, hi<<4|lo)
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

func hexDigit(c byte) (byte, bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}
