package usage

import (
	"bytes"
	"slices"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
)

// eventReader gives the data of server-sent events to a scanner, a text an event (HTML standard, section 9.2). Data that no blank
// line has ended yet is read too, so an answer without a last blank line has its usage. Comments and other fields are skipped.
type eventReader struct {
	scanner *jsonpointer.Scanner
	state   lineState
	field   int  // how many bytes of "data" the line began with
	hasData bool // the event has a line of data
	afterCR bool // the byte before was a CR that ended a line

	needles [][]byte
	next    []int // where each needle is next in what is written, at least as far as was searched
}

type lineState uint8

const (
	lineStart lineState = iota
	inField
	dataStart
	inData
	inOther
)

const dataField = "data"

func newEventReader(scanner *jsonpointer.Scanner, needles [][]byte) *eventReader {
	return &eventReader{scanner: scanner, needles: needles, next: make([]int, len(needles))}
}

func (e *eventReader) write(p []byte) {
	for i := range e.next {
		e.next[i] = -1
	}
	blank := 0 // the end of the next blank line, at least as far as was searched
	for i := 0; i < len(p); {
		if e.state == lineStart && !e.hasData && len(e.needles) > 0 {
			if blank <= i {
				blank = i + afterBlankLine(p[i:])
			}
			if blank <= len(p) && blank <= e.nextNeedle(p, i) {
				i = blank
				e.afterCR = false
				continue
			}
		}
		i += e.step(p[i:])
	}
}

// nextNeedle returns where the next needle from i is, or len(p).
func (e *eventReader) nextNeedle(p []byte, i int) int {
	first := len(p)
	for k, needle := range e.needles {
		if e.next[k] < i {
			e.next[k] = len(p)
			if at := bytes.Index(p[i:], needle); at >= 0 {
				e.next[k] = i + at
			}
		}
		first = min(first, e.next[k])
	}
	return first
}

// afterBlankLine returns the length of p up to the end of its first blank line that follows a line feed, where an event ends
// whatever came before. It returns more than len(p) if there is none.
func afterBlankLine(p []byte) int {
	for i := 0; ; {
		n := bytes.IndexByte(p[i:], '\n')
		if n < 0 {
			return len(p) + 1
		}
		i += n + 1
		if i < len(p) && p[i] == '\n' {
			return i + 1
		}
		if i+1 < len(p) && p[i] == '\r' && p[i+1] == '\n' {
			return i + 2
		}
	}
}

// maxStep bounds what one step searches for the end of a line, so that short lines cost no more than long ones.
const maxStep = 1024

// step reads some bytes of p, which is not empty. It returns how many.
func (e *eventReader) step(p []byte) int {
	c := p[0]
	if e.afterCR {
		e.afterCR = false
		if c == '\n' {
			return 1
		}
	}
	switch end := c == '\n' || c == '\r'; {
	case e.state == inData, e.state == inOther:
		if n := lineLength(p[:min(len(p), maxStep)]); n > 0 {
			if e.state == inData {
				e.scanner.Write(p[:n])
			}
			return n
		}
		e.endLine(c)
	case e.state == lineStart && end:
		e.endLine(c)
		e.scanner.EndText()
		e.hasData = false
	case e.state == lineStart:
		e.state, e.field = inField, 0
		return 0
	case e.state == dataStart:
		e.state = inData
		if c != ' ' {
			return 0
		}
	case end:
		e.endField()
		e.endLine(c)
	case c == ':':
		e.endField()
	case e.field < len(dataField) && c == dataField[e.field]:
		e.field++
	default:
		e.state = inOther
	}
	return 1
}

// endField ends the name of a field.
func (e *eventReader) endField() {
	if e.field < len(dataField) {
		e.state = inOther
		return
	}
	if e.hasData {
		e.scanner.Write([]byte{'\n'})
	}
	e.state, e.hasData = dataStart, true
}

func (e *eventReader) endLine(c byte) { e.state, e.afterCR = lineStart, c == '\r' }

// lineLength returns the length of p up to the end of its line.
func lineLength(p []byte) int {
	if n := bytes.IndexByte(p, '\n'); n >= 0 {
		p = p[:n]
	}
	if n := bytes.IndexByte(p, '\r'); n >= 0 {
		p = p[:n]
	}
	return len(p)
}

// needlesOf returns byte sequences of which an event has at least one if it has a member at any of the pointers. It returns none
// if it knows none.
func needlesOf(fields [][]jsonpointer.Pointer) [][]byte {
	needles := []string{`\u00`} // begins the only escapes that a plain name can have
	for _, pointers := range fields {
		for _, p := range pointers {
			names := p.Names()
			last := names[len(names)-1]
			if !plain(last) || jsonpointer.Index(last) >= 0 {
				return nil
			}
			if needle := fromRarest(last) + `"`; !slices.Contains(needles, needle) {
				needles = append(needles, needle)
			}
		}
	}
	sequences := make([][]byte, len(needles))
	for i, needle := range needles {
		sequences[i] = []byte(needle)
	}
	return sequences
}

// plain reports whether a name has letters, digits, underscores and hyphens alone. JSON writes these as they are, or as \u00 and two
// digits.
func plain(name string) bool {
	for _, c := range []byte(name) {
		if c != '_' && c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return name != ""
}

// fromRarest returns name from its byte that is rarest in JSON texts. bytes.Index is the faster the rarer the first byte is.
func fromRarest(name string) string {
	const byFrequency = "0123456789-_etaoinsrhldcumfpgwybvkxjqz"
	start, rarest := 0, -1
	for i := range len(name) {
		rank := strings.IndexByte(byFrequency, name[i])
		if rank < 0 {
			rank = len(byFrequency) // a capital letter
		}
		if rank > rarest {
			start, rarest = i, rank
		}
	}
	return name[start:]
}
