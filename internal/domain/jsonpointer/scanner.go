package jsonpointer

import "encoding/json"

// Kind is what is known of a field.
type Kind uint8

const (
	// Missing is nothing, or null.
	Missing Kind = iota
	// Whole is a whole number from 0 to 2^63-1, however JSON writes it: 1000, 1000.0 or 1e3.
	Whole
	// Other is any other value.
	Other
)

// Value is the last value of a field. Number is 0 unless Kind is Whole.
type Value struct {
	Number int64
	Kind   Kind
}

// Scanner finds the values of the fields of a [Set] in JSON texts, in pieces of any size, while they pass. Texts may follow
// each other, and an array at the top is read as such a sequence of texts unless a pointer begins with an index. A field's
// value is the last one that is there. In a text, of members with the same name the last one counts.
//
// What a Scanner holds does not grow with the texts. It checks the syntax on the way to the fields only: elsewhere it
// counts brackets and skips strings. From where a text is broken, nothing is read until [Scanner.EndText]; what was found
// before counts. It is for one goroutine.
type Scanner struct {
	set    *Set
	seen   []Value // in texts that have ended, by field
	values []Value // in this text, by slot
	found  bool    // values has any

	state   state
	path    []level // the open objects and arrays that lead to fields
	skipped int     // the open ones below them, which lead to none
	next    *node   // of the value that follows, or nil
	escaped bool    // the byte before was a backslash, in a string

	text     []byte // a name as it is written, or a number or literal
	tooLong  bool   // it is longer than anything that is looked for
	anEscape bool   // in the name
}

type level struct {
	node  *node
	index int // of the element in an array; -1 in an object
}

type state uint8

const (
	beforeValue state = iota
	beforeName
	beforeColon
	afterValue
	inName
	inString
	inScalar
	inSkipped // an object or array that leads to no field
	broken
)

// NewScanner returns a Scanner that has read nothing.
func NewScanner(set *Set) *Scanner {
	values := make([]Value, set.fields+len(set.fieldOf))
	return &Scanner{
		set:    set,
		seen:   values[:set.fields],
		values: values[set.fields:],
		path:   make([]level, 0, set.depth+1),
		next:   set.root,
		text:   make([]byte, 0, max(len(`\u0000`)*set.longest, maxNumber)),
	}
}

// Value returns the last value of a field so far.
func (s *Scanner) Value(field int) Value {
	v := s.seen[field]
	for slot, f := range s.set.fieldOf {
		if f == field && s.values[slot].Kind != Missing {
			v = s.values[slot]
		}
	}
	return v
}

// EndText ends a text, whether it is whole or not. A new one may follow.
func (s *Scanner) EndText() {
	s.keep()
	s.state, s.next, s.path, s.skipped, s.escaped = beforeValue, s.set.root, s.path[:0], 0, false
}

// keep moves the values of a text to the fields.
func (s *Scanner) keep() {
	if !s.found {
		return
	}
	for slot, v := range s.values {
		if v.Kind != Missing {
			s.seen[s.set.fieldOf[slot]] = v
		}
	}
	clear(s.values)
	s.found = false
}

// Write reads a piece of a text. It does not keep p.
func (s *Scanner) Write(p []byte) {
	for len(p) > 0 {
		switch s.state {
		case broken:
			return
		case inString:
			p = s.skipString(p)
		case inName:
			p = s.readName(p)
		case inScalar:
			p = s.readScalar(p)
		case inSkipped:
			p = s.skip(p)
		default:
			if c := p[0]; c != ' ' && c != '\n' && c != '\r' && c != '\t' {
				s.readToken(c)
			}
			p = p[1:]
		}
	}
}

// readToken reads the first byte of a name or a value, or a byte between them.
func (s *Scanner) readToken(c byte) {
	array := len(s.path) > 0 && s.path[len(s.path)-1].index >= 0
	object := len(s.path) > 0 && !array
	switch {
	case s.state == beforeName && c == '"':
		s.begin(inName)
	case s.state == beforeColon && c == ':':
		s.state = beforeValue
	case s.state == afterValue && c == ',' && object:
		s.state = beforeName
	case s.state == afterValue && c == ',':
		s.nextElement()
	case s.state == beforeValue && (c == '{' || c == '['):
		s.open(c)
	case s.state == beforeValue && len(s.path) == 0:
		s.state = broken // a string, a number or a literal leads to no field; it may be a text in another format
	case s.state == beforeValue && c == '"':
		s.put(Value{Kind: Other})
		s.state = inString
	case s.state == beforeValue && scalar[c]:
		s.begin(inScalar)
		s.text = append(s.text, c)
	case c == '}' && object && s.state != beforeColon && s.state != beforeValue, c == ']' && array:
		s.path = s.path[:len(s.path)-1]
		s.endValue()
	default:
		s.state = broken
	}
}

func (s *Scanner) begin(st state) {
	s.state, s.text, s.tooLong, s.anEscape = st, s.text[:0], false, false
}

func (s *Scanner) open(c byte) {
	s.put(Value{Kind: Other})
	sequence := c == '[' && len(s.path) == 0 && s.set.elements
	switch {
	case !sequence && (s.next == nil || len(s.next.children) == 0):
		s.state, s.skipped = inSkipped, 1
	case c == '{':
		s.path = append(s.path, level{node: s.next, index: -1})
		s.state = beforeName
	default:
		s.path = append(s.path, level{node: s.next, index: -1})
		s.nextElement()
	}
}

func (s *Scanner) nextElement() {
	l := &s.path[len(s.path)-1]
	l.index++
	s.next = l.node.at(l.index)
	if len(s.path) == 1 && s.set.elements {
		s.next = s.set.root
	}
	s.state = beforeValue
}

func (s *Scanner) endValue() {
	s.state = afterValue
	switch {
	case len(s.path) == 0:
		s.EndText()
	case len(s.path) == 1 && s.path[0].index >= 0 && s.set.elements:
		s.keep()
	}
}

// put sets the value of the fields at the place that was reached.
func (s *Scanner) put(v Value) {
	if s.next == nil {
		return
	}
	for i := range s.next.fields {
		s.values[s.next.first+i] = v
		s.found = true
	}
}

// readName reads a name up to its quote. It returns what follows.
func (s *Scanner) readName(p []byte) []byte {
	n := 0
	for n < len(p) && (s.escaped || p[n] != '"') {
		s.escaped = !s.escaped && p[n] == '\\'
		s.anEscape = s.anEscape || s.escaped
		n++
	}
	s.collect(p[:n])
	if n == len(p) {
		return nil
	}
	s.state = beforeColon
	s.next = s.path[len(s.path)-1].node.named(s.name())
	if s.next != nil {
		clear(s.values[s.next.first:s.next.end])
	}
	return p[n+1:]
}

// name returns the name that was read, or nil if it is none that is looked for.
func (s *Scanner) name() []byte {
	switch {
	case s.tooLong:
		return nil
	case !s.anEscape:
		return s.text
	}
	var name string
	if json.Unmarshal([]byte(`"`+string(s.text)+`"`), &name) != nil {
		return nil
	}
	return []byte(name)
}

// readScalar reads a number or a literal. It returns what follows.
func (s *Scanner) readScalar(p []byte) []byte {
	n := 0
	for n < len(p) && scalar[p[n]] {
		n++
	}
	s.collect(p[:n])
	if n == len(p) {
		return nil
	}
	if s.tooLong || string(s.text) != "null" {
		s.put(s.number())
	}
	s.endValue()
	return p[n:]
}

// number returns the value that was read.
func (s *Scanner) number() Value {
	if n, ok := parseWhole(s.text); ok && !s.tooLong {
		return Value{Number: n, Kind: Whole}
	}
	return Value{Kind: Other}
}

func (s *Scanner) collect(p []byte) {
	if len(s.text)+len(p) > cap(s.text) {
		s.tooLong = true
		return
	}
	s.text = append(s.text, p...)
}

// skipString reads a string up to its quote. It returns what follows.
func (s *Scanner) skipString(p []byte) []byte {
	for i, c := range p {
		switch {
		case s.escaped:
			s.escaped = false
		case c == '\\':
			s.escaped = true
		case c == '"':
			if s.skipped > 0 {
				s.state = inSkipped
			} else {
				s.endValue()
			}
			return p[i+1:]
		}
	}
	return nil
}

// skip reads an object or an array that leads to no field up to its end or a string. It returns what follows.
func (s *Scanner) skip(p []byte) []byte {
	for i, c := range p {
		switch c {
		case '"':
			s.state = inString
			return p[i+1:]
		case '{', '[':
			s.skipped++
		case '}', ']':
			if s.skipped--; s.skipped == 0 {
				s.endValue()
				return p[i+1:]
			}
		}
	}
	return nil
}

// scalar has the bytes of numbers and literals.
var scalar = func() (t [256]bool) {
	for _, c := range "+-.0123456789abcdefghijklmnopqrstuvwxyzE" {
		t[c] = true
	}
	return t
}()
