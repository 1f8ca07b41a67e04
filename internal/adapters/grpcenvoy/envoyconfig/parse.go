package envoyconfig

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxNesting is how deep brackets and lists may nest in one line, which bounds the depth of the parser.
const maxNesting = 64

// reader reads one file.
type reader struct {
	file    string
	options Options
	errs    []error
	rules   int
	domain  string
}

// fail reports an error with its place.
func (r *reader) fail(at *token.Token, format string, args ...any) {
	line, column := 1, 1
	if at != nil && at.Position != nil {
		line, column = at.Position.Line, at.Position.Column
	}
	r.errs = append(r.errs, fmt.Errorf("%s:%d:%d: %s", r.file, line, column, fmt.Sprintf(format, args...)))
}

// parse returns the one document of a file. If there is none, it reports that and returns nil.
func (r *reader) parse(text []byte) ast.Node {
	if !utf8.Valid(text) {
		r.fail(nil, "must be text in UTF-8")
		return nil
	}
	tokens := lexer.Tokenize(strings.ReplaceAll(string(text), "\r\n", "\n"))
	if !r.checkTokens(tokens) {
		return nil
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		if bad, ok := errors.AsType[*yaml.SyntaxError](err); ok {
			r.fail(bad.Token, "is not YAML: %s", bad.Message)
		} else {
			r.fail(nil, "is not YAML: %v", err)
		}
		return nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil && body != nil {
			r.fail(doc.Body.GetToken(), "there must be one document: only the first would be read")
			return nil
		}
		body = cmp.Or(body, doc.Body)
	}
	if body == nil {
		r.fail(nil, "is empty")
	}
	return body
}

// checkTokens refuses, before parsing, tokens that the format does not have and those that would make parsing expensive.
//
//nolint:exhaustive // configurations may have the other tokens
func (r *reader) checkTokens(tokens token.Tokens) bool {
	flow, line, onLine := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, onLine = t.Position.Line, 0
		}
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType, token.DirectiveType:
			r.fail(t, "%s: anchors, aliases, merge keys, tags and directives are not supported: write the value out", shown(t.Value))
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType:
			onLine++
		}
		if flow > maxNesting || onLine > maxNesting {
			r.fail(t, "nests deeper than %d levels", maxNesting)
			return false
		}
	}
	return len(r.errs) == 0
}

// fields reads a mapping with a function for each field. It returns the fields found, or reports an error and returns nil if n
// is not a mapping.
func (r *reader) fields(n ast.Node, what string, known map[string]field) map[string]*token.Token {
	var entries []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	default:
		r.fail(n.GetToken(), "%s must be a mapping", what)
		return nil
	}
	given := make(map[string]*token.Token, len(entries))
	for _, e := range entries {
		at := e.Key.GetToken()
		read, ok := known[at.Value]
		if !ok {
			r.fail(at, "%s: is not a field of %s that Velocity supports", shown(at.Value), what)
			continue
		}
		if _, nothing := e.Value.(*ast.NullNode); nothing {
			continue // an empty value counts as missing
		}
		given[at.Value] = at
		read(e.Value)
	}
	return given
}

// list calls item for each value of a list.
func (r *reader) list(n ast.Node, what string, item func(ast.Node)) {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		r.fail(n.GetToken(), "%s must be a list", what)
		return
	}
	for _, value := range list.Values {
		item(value)
	}
}

// text reads a scalar as it is written. 200 and true are texts too.
func (r *reader) text(n ast.Node, what string) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value
	case *ast.LiteralNode:
		return n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value
	}
	r.fail(n.GetToken(), "%s must be a text", what)
	return ""
}

func (r *reader) boolean(n ast.Node, what string) bool {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		r.fail(n.GetToken(), "%s: %s: must be true or false", what, shown(n.GetToken().Value))
		return false
	}
	return b.Value
}

func (r *reader) number(n ast.Node, what string) uint32 {
	value := n.GetToken().Value
	number, err := strconv.ParseUint(value, 10, 32)
	if _, whole := n.(*ast.IntegerNode); !whole || err != nil {
		r.fail(n.GetToken(), "%s: %s: must be a whole number from 0 to %d", what, shown(value), uint32(math.MaxUint32))
	}
	return uint32(number)
}

// shown quotes a value, and cuts a long one.
func shown(s string) string {
	const longest = 64
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "..."
	}
	return strconv.Quote(s)
}
