package policyfile

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a file. They are far above what a policy file needs.
const (
	maxSize = 1 << 20
	// maxDepth is how deep lists and mappings may nest.
	maxDepth = 20
	// maxFields is how many fields one mapping may have. The parser's time grows with the square of it.
	maxFields = 64
)

// lineEnds replaces all line ends by \n, since the lexer counts \r\n in comments twice.
var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// parse returns the one document of a file, or nil if the file is empty.
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
	check := tokenCheck{open: map[int]int{}}
	if errs := check.all(tokens); len(errs) > 0 {
		return nil, errs.sorted()
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // object reports them with their places
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

// badText returns the offset of the first control character or invalid byte, or -1 if there is none.
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
	if bad, ok := errors.AsType[*yaml.SyntaxError](err); ok && bad.Token != nil && bad.Token.Position != nil {
		return &Error{bad.Token.Position.Line, bad.Token.Position.Column, "", "", "is not YAML: " + bad.Message}
	}
	return &Error{1, 1, "", "", "is not YAML"}
}

// tokenCheck checks the tokens of a file before they are parsed, because the parser's depth and time depend on what the file
// nests.
type tokenCheck struct {
	errs Errors
	open map[int]int // the number of fields of the open mapping at each column
	// inFlow is the number of fields in each open bracket or brace.
	inFlow []int
	// onLine is the number of list entries that start on line: "- - -" nests without brackets.
	line, onLine int
}

func (c *tokenCheck) all(tokens token.Tokens) Errors {
	for _, t := range tokens {
		c.look(t)
		if len(c.errs) > maxErrors || len(c.inFlow) > maxDepth {
			break
		}
	}
	return c.errs
}

func (c *tokenCheck) bad(t *token.Token, reason string) {
	c.errs = append(c.errs, &Error{t.Position.Line, t.Position.Column, "", shown(t.Value), reason})
}

//nolint:exhaustive // policy files may have the other tokens
func (c *tokenCheck) look(t *token.Token) {
	if t.Position.Line != c.line {
		c.line, c.onLine = t.Position.Line, 0
	}
	switch t.Type {
	case token.AnchorType, token.AliasType, token.MergeKeyType:
		c.bad(t, "must not be used: anchors, aliases and merge keys are refused, write the value out or quote it")
	case token.TagType, token.DirectiveType:
		c.bad(t, "must not be used: tags and directives are refused")
	case token.MappingKeyType:
		c.bad(t, "must not be used: a field is written as name: value")
	case token.SequenceEntryType:
		c.closeBeyond(t.Position.Column)
		if c.onLine++; c.onLine > maxDepth {
			c.bad(t, tooDeep)
		}
	case token.MappingStartType, token.SequenceStartType:
		if c.inFlow = append(c.inFlow, 0); len(c.inFlow) > maxDepth {
			c.bad(t, tooDeep)
		}
	case token.MappingEndType, token.SequenceEndType:
		c.inFlow = c.inFlow[:max(len(c.inFlow)-1, 0)]
	case token.MappingValueType:
		c.field(t)
		c.nameInQuotes(t)
	}
}

// nameInQuotes refuses the name of a condition, such as header:X-Plan, without quotes in braces. YAML allows that, but the lexer takes
// its colon for the end of the name.
func (c *tokenCheck) nameInQuotes(colon *token.Token) {
	name, rest := colon.Prev, colon.Next
	if len(c.inFlow) == 0 || name == nil || rest == nil || name.Type != token.StringType || rest.Type != token.StringType ||
		rest.Position.Line != colon.Position.Line || rest.Position.Column != colon.Position.Column+1 {
		return
	}
	if slices.Contains([]string{"header", "claim", "cookie", "query"}, name.Value) {
		c.bad(name, "must be in quotes inside braces, with all that belongs to it, as in \"header:X-Plan\"")
	}
}

var tooDeep = "nests deeper than " + strconv.Itoa(maxDepth) + " levels"

// closeBeyond removes the mappings that are indented more than column.
func (c *tokenCheck) closeBeyond(column int) {
	maps.DeleteFunc(c.open, func(other, _ int) bool { return other > column })
}

// field counts the field that colon belongs to.
func (c *tokenCheck) field(colon *token.Token) {
	count := 0
	if last := len(c.inFlow) - 1; last >= 0 {
		c.inFlow[last]++
		count = c.inFlow[last]
	} else {
		name := colon
		if colon.Prev != nil && colon.Prev.Position.Line == colon.Position.Line {
			name = colon.Prev
		}
		c.closeBeyond(name.Position.Column)
		c.open[name.Position.Column]++
		count = c.open[name.Position.Column]
		if len(c.open) > maxDepth {
			c.bad(colon, tooDeep)
		}
	}
	if count == maxFields+1 {
		c.bad(colon, "is one field too many: a mapping may have "+strconv.Itoa(maxFields))
	}
}
