package policyfile

import (
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// conditions reads conditions: a mapping of sources, of which parse reads the names, to a value or a list of values.
func (r *reader) conditions(p place, parse func(string) (clientkey.Source, error)) (all []policy.Condition) {
	entries, isMapping := r.entries(p)
	if isMapping && len(entries) == 0 {
		r.bad(p, "", "must have at least one condition")
	}
	lines := map[clientkey.Source]int{}
	for _, entry := range entries {
		name, at := keyText(entry.Key), *entry.Key.GetToken().Position
		source, err := parse(name)
		if err != nil {
			r.refuse(place{entry.Value, at, p.field}, err)
			continue
		}
		keyAt := place{entry.Value, at, joined(p.field, name)}
		if line, twice := lines[source]; twice {
			r.bad(keyAt, "", "is repeated: it is also on line "+strconv.Itoa(line))
			continue
		}
		lines[source] = at.Line
		r.patterns = append(r.patterns, namedPlace{source.String(), keyAt})
		all = append(all, policy.Condition{Source: source, Values: r.conditionValues(p.member(name, entry.Key, entry.Value), source)})
	}
	return all
}

// conditionValues reads one value, or a list of them.
func (r *reader) conditionValues(p place, source clientkey.Source) (values []string) {
	before := len(r.errs)
	defer func() { r.patternErrs = append(r.patternErrs, r.errs[before:]...) }()
	check := func(s string) error { return policy.CheckConditionValue(source, s) }
	if _, isList := p.node.(*ast.SequenceNode); !isList {
		return r.appendText(nil, p, check)
	}
	r.list(p, "values", "must have at least one value", func(item place) { values = r.appendText(values, item, check) })
	return values
}

// parseWhen reads the source of a condition of when. For one that is misspelt the error says which one was probably meant.
func parseWhen(s string) (clientkey.Source, error) {
	source, err := policy.ParseConditionSource(s)
	if err == nil {
		return source, nil
	}
	kinds := []string{"header", "claim", "ip"}
	kind, name, hasName := strings.Cut(s, ":")
	meant := Nearest(strings.ToLower(kind), kinds)
	switch {
	case hasName:
		meant += ":" + name
	case meant == "": // a name alone
		meant = "header:" + s
	}
	if _, wrong := policy.ParseConditionSource(meant); wrong == nil {
		return source, wrongValue(s, "is not a known condition: did you mean "+meant+"?")
	}
	return source, err
}

// parseHeaderName reads the name of a header.
func parseHeaderName(s string) (clientkey.Source, error) {
	source := clientkey.Source{Kind: clientkey.SourceHeader, Name: strings.ToLower(s)}
	if !source.Valid() {
		if written, err := policy.ParseConditionSource(s); err == nil && written.Kind == clientkey.SourceHeader {
			return source, wrongValue(s, "must be the name of a header alone: did you mean "+s[len("header:"):]+"?")
		}
		return source, wrongValue(s, "must be the name of a header, of letters, digits and hyphens")
	}
	return source, nil
}
