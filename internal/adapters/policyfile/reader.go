package policyfile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// reader turns the nodes of a file into policies, and collects what is wrong on the way.
type reader struct {
	errs    Errors
	options Options
	// overridden, limitKeys and patterns are of the policy that is read: the limits that its overrides name, the keys of
	// its limits, and its patterns of clients.
	overridden, limitKeys, patterns []namedPlace
}

type namedPlace struct {
	name string
	at   place
}

// place is a value in the file: where it stands, and the path of its field.
type place struct {
	node  ast.Node
	at    token.Position
	field string
}

func (p place) index(i int, node ast.Node) place {
	return place{node, positionOf(node, p.at), p.field + "[" + strconv.Itoa(i) + "]"}
}

func (p place) member(name string, key, value ast.Node) place {
	field := name
	if p.field != "" {
		field = p.field + "." + name
	}
	return place{value, positionOf(value, *key.GetToken().Position), field}
}

// positionOf is where a value starts; that of nothing is where it should have been.
func positionOf(node ast.Node, otherwise token.Position) token.Position {
	switch n := node.(type) {
	case nil, *ast.NullNode:
		return otherwise
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return *n.Values[0].Key.GetToken().Position
		}
	case *ast.MappingValueNode:
		return *n.Key.GetToken().Position
	}
	return *node.GetToken().Position
}

func (r *reader) bad(p place, value, reason string) {
	r.errs = append(r.errs, &Error{p.at.Line, p.at.Column, p.field, value, reason})
}

// refuse reports what the domain has against a value.
func (r *reader) refuse(p place, err error) {
	var field *domain.FieldError
	if errors.As(err, &field) {
		r.bad(p, field.Value, field.Reason)
	} else {
		r.bad(p, "", err.Error())
	}
}

// wrong reports a value of the wrong type.
func (r *reader) wrong(p place, want string) { r.bad(p, describe(p.node), "must be "+want) }

// describe shows what was found, whatever it is.
func describe(node ast.Node) string {
	switch n := node.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.LiteralNode:
		return "a text of several lines"
	case *ast.StringNode:
		return shown(n.Value)
	default:
		return shown(node.GetToken().Value)
	}
}

// text reads a scalar. Whole numbers are taken as they are written, since clients and names may be numbers; what YAML
// takes for anything else, such as true or 1.5, must be quoted.
func (r *reader) text(p place) (string, bool) {
	switch n := p.node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode:
		return n.GetToken().Value, true
	case *ast.BoolNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		r.wrong(p, "a text: put it in quotes")
	default:
		r.wrong(p, "a text")
	}
	return "", false
}

// integer reads a whole number, written with decimal digits alone.
func (r *reader) integer(p place, least, most domain.Tokens) (domain.Tokens, bool) {
	digits := ""
	switch p.node.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.StringNode: // what has too many digits is not an integer to the parser
		digits = p.node.GetToken().Value
	}
	value, err := strconv.ParseInt(digits, 10, 64)
	_, quoted := p.node.(*ast.StringNode)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && !quoted && (value < int64(least) || value > int64(most)):
		r.bad(p, digits, fmt.Sprintf("must be from %d to %d", least, most))
	case err != nil || quoted:
		r.wrong(p, "a whole number, of decimal digits alone")
	case digits != strconv.FormatInt(value, 10):
		r.bad(p, digits, "must be written without sign and leading zeros")
	default:
		return domain.Tokens(value), true
	}
	return 0, false
}

// list reads a list and calls item for each of its values.
func (r *reader) list(p place, what string, item func(place)) {
	list, ok := p.node.(*ast.SequenceNode)
	if !ok {
		r.wrong(p, "a list of "+what)
		return
	}
	for i, value := range list.Values {
		item(p.index(i, value))
	}
}

// patternsOf reads a list of patterns of clients, and remembers where each stands.
func (r *reader) patternsOf(p place) []string {
	all := r.texts(p, "patterns", domain.CheckPattern)
	if list, ok := p.node.(*ast.SequenceNode); ok {
		for i, node := range list.Values {
			if text, ok := node.(*ast.StringNode); ok {
				r.patterns = append(r.patterns, namedPlace{text.Value, p.index(i, node)})
			}
		}
	}
	return all
}

// texts reads a list of texts that check accepts.
func (r *reader) texts(p place, what string, check func(string) error) []string {
	var all []string
	r.list(p, what, func(item place) {
		s, ok := r.text(item)
		if !ok {
			return
		}
		if err := check(s); err != nil {
			r.refuse(item, err)
			return
		}
		all = append(all, s)
	})
	return all
}

// object reads a mapping by a table of its fields, and returns where each of those given stands. It is false if
// anything was wrong with it.
func object[T any](r *reader, p place, table []field[T], into *T) (map[string]place, bool) {
	before := len(r.errs)
	given, meant := map[string]place{}, map[string]bool{}
	entries, isMapping := r.entries(p)
	for _, entry := range entries {
		name := keyText(entry.Key)
		keyAt := place{entry.Value, *entry.Key.GetToken().Position, joined(p.field, name)}
		i := slices.IndexFunc(table, func(f field[T]) bool { return f.name == name })
		if i < 0 {
			meant[r.unknown(keyAt, p, name, names(table))] = true
			continue
		}
		if first, twice := given[name]; twice {
			r.bad(keyAt, "", "stands twice: it is on line "+strconv.Itoa(first.at.Line)+", too")
			continue
		}
		given[name] = p.member(name, entry.Key, entry.Value)
		table[i].read(r, given[name], into)
	}
	for _, f := range table {
		if _, there := given[f.name]; isMapping && f.required && !there && !meant[f.name] {
			r.bad(place{p.node, p.at, joined(p.field, f.name)}, "", "is missing")
		}
	}
	return given, before == len(r.errs)
}

func keyText(key ast.MapKeyNode) string {
	if s, quoted := key.(*ast.StringNode); quoted {
		return s.Value
	}
	return key.GetToken().Value
}

func joined(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// unknown refuses a field, and returns the one that was probably meant.
func (r *reader) unknown(at, parent place, name string, known []string) string {
	reason := "is no known field: there are " + strings.Join(known, ", ")
	nearest := Nearest(name, known)
	if nearest != "" {
		reason = "is no known field: did you mean " + nearest + "?"
	}
	at.field = parent.field
	r.bad(at, shown(name), reason)
	return nearest
}

// entries returns those of a mapping.
func (r *reader) entries(p place) (list []*ast.MappingValueNode, isMapping bool) {
	switch n := p.node.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	r.wrong(p, "a mapping")
	return nil, false
}
