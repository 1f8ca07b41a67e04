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
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// reader turns the nodes of a file into policies, and collects the errors.
type reader struct {
	errs           Errors
	onStoreFailure policy.FailureMode
	hasher         *clientkey.Hasher // nil: no key can be secret
	folder         string            // in which relative paths of bodies start
	notes          func(path string) // is called before a file with a body is read
	bodies         [][]byte          // the contents of the files with bodies
	shared         []sharedLimit
	policyName     string // of the current policy, and of its limits that have no name
	// The rest belongs to the current policy or shared limit.
	usesWrong           bool                      // it uses a shared limit that has errors
	specs               map[string]limitspec.Spec // its limits, by name
	overrides           [][]writtenLimit          // the limits of each of its overrides
	patternErrs         []*Error                  // errors about its patterns, and the values of its conditions
	limitKeys, patterns []namedPlace              // the keys of its limits, and its patterns of clients
	costParts           []namedPlace              // the members of its cost, and the sources of its estimate
}

type namedPlace struct {
	name string
	at   place
}

// place is a value in the file, with its position and the path of its field.
type place struct {
	node  ast.Node
	at    token.Position
	field string
}

func (p place) index(i int, node ast.Node) place {
	return place{node, positionOf(node, p.at), p.field + "[" + strconv.Itoa(i) + "]"}
}

func (p place) member(name string, key, value ast.Node) place {
	return place{value, positionOf(value, *key.GetToken().Position), joined(p.field, name)}
}

// positionOf returns the position where a value starts, or otherwise if there is no value.
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

// refuse reports an error of package domain about a value.
func (r *reader) refuse(p place, err error) {
	if field, ok := errors.AsType[*domain.FieldError](err); ok {
		r.bad(p, field.Value, field.Reason)
	} else {
		r.bad(p, "", err.Error())
	}
}

// wrong reports a value of the wrong type.
func (r *reader) wrong(p place, want string) { r.bad(p, describe(p.node), "must be "+want) }

// describe returns a text for the value found.
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

// text reads a text. It accepts whole numbers as they are written, since clients and names may be numbers. Other values that
// are not texts in YAML, such as true and 1.5, must be quoted.
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

// integer reads a whole number in decimal digits.
func (r *reader) integer(p place, least, most domain.Tokens) (domain.Tokens, bool) {
	digits := ""
	switch p.node.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.StringNode: // the parser does not return numbers with too many digits as integers
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

// list reads a list and calls item for each of its values. It reports empty, if that is not "", for a list without values.
func (r *reader) list(p place, what, empty string, item func(place)) {
	list, ok := p.node.(*ast.SequenceNode)
	switch {
	case !ok:
		r.wrong(p, "a list of "+what)
		return
	case len(list.Values) == 0 && empty != "":
		r.bad(p, "", empty)
	}
	for i, value := range list.Values {
		item(p.index(i, value))
	}
}

// patternsOf reads a list of patterns of clients, and records the place of each.
func (r *reader) patternsOf(p place, empty string) (all []string) {
	before := len(r.errs)
	r.list(p, "patterns", empty, func(item place) {
		if text, ok := item.node.(*ast.StringNode); ok {
			r.patterns = append(r.patterns, namedPlace{text.Value, item})
		}
		all = r.appendText(all, item, policy.CheckPattern)
	})
	r.patternErrs = append(r.patternErrs, r.errs[before:]...)
	return all
}

// hidePatterns removes the patterns and the values of conditions from the errors about them, if key or that of a limit is secret, or if
// key was written but could not be read. The errors have their places.
func (r *reader) hidePatterns(key clientkey.Key, given map[string]place, limitKeys map[string]clientkey.Key) {
	secret := key.Secret()
	for _, of := range limitKeys {
		secret = secret || of.Secret()
	}
	if _, written := given["key"]; !secret && (!written || key != nil) {
		return
	}
	for _, wrong := range r.patternErrs {
		wrong.Value = ""
	}
}

// texts reads a list of texts, each of which check must accept.
func (r *reader) texts(p place, what string, check func(string) error) []string {
	var all []string
	r.list(p, what, "", func(item place) { all = r.appendText(all, item, check) })
	return all
}

// appendText reads a text and appends it to all, if check accepts it.
func (r *reader) appendText(all []string, p place, check func(string) error) []string {
	before := len(r.errs)
	if s := r.checked(p, check); before == len(r.errs) {
		all = append(all, s)
	}
	return all
}

// object reads a mapping by a table of its fields. It returns the places of the fields that it found, and false if there was
// an error.
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
			r.bad(keyAt, "", "is repeated: it is also on line "+strconv.Itoa(first.at.Line))
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

// unknown reports an unknown field, and returns the known one that was probably meant.
func (r *reader) unknown(at, parent place, name string, known []string) string {
	reason := "is not a known field: the fields are " + strings.Join(known, ", ")
	nearest := Nearest(name, known)
	if nearest != "" {
		reason = "is not a known field: did you mean " + nearest + "?"
	}
	at.field = parent.field
	r.bad(at, shown(name), reason)
	return nearest
}

// entries returns the entries of a mapping.
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
