package policyfile

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a file, all of them far beyond what a policy file needs.
const (
	maxSize = 1 << 20
	// maxDepth is how deep lists and mappings may nest.
	maxDepth = 20
	// maxFields is how many fields one mapping may have. The parser's time grows with the square of it.
	maxFields = 64
)

// lineEnds makes all ends of lines alike: the lexer counts \r\n in comments twice.
var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// parse returns the one document of a file; nil if it is empty.
func parse(data []byte) (ast.Node, Errors) {
	if len(data) > maxSize {
		return nil, Errors{{1, 1, "", fmt.Sprintf("%d bytes", len(data)), fmt.Sprintf("must have at most %d bytes", maxSize)}}
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if at := badText(data); at >= 0 {
		line := bytes.Count(data[:at], []byte("\n")) + 1
		column := utf8.RuneCount(data[bytes.LastIndexByte(data[:at], '\n')+1:at]) + 1
		return nil, Errors{{line, column, "", fmt.Sprintf("%#x", data[at]), "must be text in UTF-8, without control characters"}}
	}
	tokens := lexer.Tokenize(lineEnds.Replace(string(data)))
	if errs := newGuard().check(tokens); len(errs) > 0 {
		return nil, errs.sorted()
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // we say where they stand, and go on
	if err != nil {
		return nil, Errors{syntaxError(err)}
	}
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case body == nil:
			body = doc.Body
		default:
			at := doc.Body.GetToken().Position
			return nil, Errors{{at.Line, at.Column, "", "", "there must be one document: nothing may follow the --- here"}}
		}
	}
	return body, nil
}

// badText returns the place of the first byte that no text has; -1 if there is none.
func badText(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 || r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == 0x7f {
			return i
		}
		i += size
	}
	return -1
}

func syntaxError(err error) *Error {
	var bad *yaml.SyntaxError
	if errors.As(err, &bad) && bad.Token != nil && bad.Token.Position != nil {
		return &Error{bad.Token.Position.Line, bad.Token.Position.Column, "", "", "is not YAML: " + bad.Message}
	}
	return &Error{1, 1, "", "", "is not YAML"}
}

// guard looks at a file's tokens before they are parsed: the parser nests as deep as the file does, and takes long for
// what no policy file has.
type guard struct {
	errs Errors
	flow int         // brackets and braces that are open
	open map[int]int // by column: the fields of the mapping there that is open
	// inFlow are the fields of each open bracket or brace.
	inFlow []int
	// onLine are the entries of lists that start on one line: - - - nests without any brackets.
	line, onLine int
}

func newGuard() *guard { return &guard{open: map[int]int{}} }

func (g *guard) check(tokens token.Tokens) Errors {
	for _, t := range tokens {
		g.look(t)
		if len(g.errs) > maxErrors || g.flow > maxDepth {
			break
		}
	}
	return g.errs
}

func (g *guard) bad(t *token.Token, reason string) {
	g.errs = append(g.errs, &Error{t.Position.Line, t.Position.Column, "", shown(t.Value), reason})
}

//nolint:exhaustive // the other tokens are what a policy file is made of
func (g *guard) look(t *token.Token) {
	if t.Position.Line != g.line {
		g.line, g.onLine = t.Position.Line, 0
	}
	switch t.Type {
	case token.AnchorType, token.AliasType, token.MergeKeyType:
		g.bad(t, "must not be used: anchors, aliases and merge keys are refused, write the value out or quote it")
	case token.TagType, token.DirectiveType:
		g.bad(t, "must not be used: tags and directives are refused")
	case token.MappingKeyType:
		g.bad(t, "must not be used: a field is written as name: value")
	case token.SequenceEntryType:
		for column := range g.open {
			if column > t.Position.Column {
				delete(g.open, column)
			}
		}
		if g.onLine++; g.onLine > maxDepth {
			g.bad(t, tooDeep)
		}
	case token.MappingStartType, token.SequenceStartType:
		g.inFlow = append(g.inFlow, 0)
		if g.flow++; g.flow > maxDepth {
			g.bad(t, tooDeep)
		}
	case token.MappingEndType, token.SequenceEndType:
		if g.flow > 0 {
			g.flow--
			g.inFlow = g.inFlow[:g.flow]
		}
	case token.MappingValueType:
		g.field(t)
	}
}

var tooDeep = "nests deeper than " + strconv.Itoa(maxDepth) + " levels"

// field counts the field whose colon t is.
func (g *guard) field(colon *token.Token) {
	count := 0
	if g.flow > 0 {
		g.inFlow[g.flow-1]++
		count = g.inFlow[g.flow-1]
	} else {
		name := colon
		if colon.Prev != nil && colon.Prev.Position.Line == colon.Position.Line {
			name = colon.Prev
		}
		for column := range g.open {
			if column > name.Position.Column {
				delete(g.open, column)
			}
		}
		g.open[name.Position.Column]++
		count = g.open[name.Position.Column]
		if len(g.open) > maxDepth {
			g.bad(colon, tooDeep)
		}
	}
	if count == maxFields+1 {
		g.bad(colon, "is one field too many: a mapping may have "+strconv.Itoa(maxFields))
	}
}
