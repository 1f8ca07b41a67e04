package policyfile

import (
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// sharedLimit is a shared limit of the file. A nil limit has errors, which are reported at its own place.
type sharedLimit struct {
	name  string
	limit *policy.Shared
}

// sharedFields are the fields of a shared limit.
var sharedFields = slices.Concat(
	[]field[writtenLimit]{
		{
			"name", true, "Unique among the shared limits; policies use the limit by it.", nameSchema, overrideLimitFields[0].read,
		},
		{
			"key", true, "What distinguishes the clients of this limit, whatever the keys of the policies: a source or a list of them.", keySchema,
			func(r *reader, p place, into *writtenLimit) { into.key, into.keyAt = r.key(p), p },
		},
	},
	overrideLimitFields[1:],
	[]field[writtenLimit]{{
		"overrides", false, "The limit for some clients, by its own key; the first whose keys match applies.",
		listOf(objectOf(sharedOverrideFields), 0, policy.MaxOverrides),
		func(r *reader, p place, into *writtenLimit) {
			var own policy.Policy
			r.overridesBy(p, sharedOverrideFields, &own, nil)
			into.overrides = own.Overrides
		},
	}},
)

// readShared reads the shared limits.
func readShared(r *reader, p place) {
	if list, ok := p.node.(*ast.SequenceNode); ok && len(list.Values) > policy.MaxShared {
		r.bad(p, strconv.Itoa(len(list.Values)), "there must be at most "+strconv.Itoa(policy.MaxShared)+" shared limits")
		return
	}
	lines := map[string]int{}
	r.list(p, "shared limits", "", func(item place) {
		r.specs, r.overrides, r.limitKeys, r.patterns, r.patternErrs = map[string]limitspec.Spec{}, nil, nil, nil, nil
		r.policyName = nameIn(item.node)
		written, right := r.limit(item, sharedFields)
		r.hidePatterns(written.key, written.given, nil)
		if at, named := written.given["name"]; named {
			name := written.Name
			if text, isText := at.node.(*ast.StringNode); isText {
				name = text.Value // as it is written, also if it is wrong
			}
			if line, twice := lines[name]; twice {
				r.bad(at, shown(name), "there is a shared limit of this name on line "+strconv.Itoa(line))
				return
			}
			lines[name] = at.at.Line
			r.shared = append(r.shared, sharedLimit{name, r.makeShared(&written, right)})
		}
	})
}

// makeShared returns nil if there is an error. right says that none has been reported.
func (r *reader) makeShared(written *writtenLimit, right bool) *policy.Shared {
	if !right {
		return nil
	}
	limit, err := written.Limit()
	if err != nil {
		r.refuseLimit(written, err)
		return nil
	}
	r.specs[written.Name] = written.Spec
	own := policy.Policy{Overrides: written.overrides}
	if !r.overrideLimits(&own, true, "must be "+written.Name+", the name of the shared limit, or left out") {
		return nil
	}
	s, err := policy.NewShared(limit, written.key, own.Overrides...)
	r.refuseAll(written.at, written.given, err)
	return s
}

// useFields are the fields of an entry of a policy's limits that uses a shared limit.
var useFields = []field[sharedLimit]{{
	"use", true, "Name of a shared limit, which stands in shared at the top of the file.", nameSchema,
	func(r *reader, p place, into *sharedLimit) { into.name, _ = r.text(p) },
}}

// uses reports whether an entry of a policy's limits has the field use.
func uses(node ast.Node) bool {
	m, isMapping := node.(*ast.MappingNode)
	return isMapping && slices.ContainsFunc(m.Values, func(entry *ast.MappingValueNode) bool { return keyText(entry.Key) == "use" })
}

// use reads an entry that uses a shared limit. lines holds the lines of the policy's limits by their names.
func (r *reader) use(item place, into *policy.Policy, lines map[string]int) {
	entries, _ := r.entries(item)
	for _, entry := range entries {
		if name := keyText(entry.Key); name != "use" {
			at := place{entry.Value, *entry.Key.GetToken().Position, joined(item.field, name)}
			r.bad(at, "", "must not stand beside use: a shared limit is described in shared alone")
			return
		}
	}
	var used sharedLimit
	given, right := object(r, item, useFields, &used)
	if !right {
		return
	}
	at := given["use"]
	i := slices.IndexFunc(r.shared, func(s sharedLimit) bool { return s.name == used.name })
	if i < 0 {
		r.bad(at, shown(used.name), "is no shared limit: "+r.knownShared())
		return
	}
	if line, twice := lines[used.name]; twice {
		r.bad(at, shown(used.name), "there is a limit of this name on line "+strconv.Itoa(line))
		return
	}
	lines[used.name] = at.at.Line
	if r.shared[i].limit == nil {
		r.usesWrong = true
		return
	}
	into.Use(r.shared[i].limit)
	r.limitKeys = append(r.limitKeys, namedPlace{used.name, at})
}

// knownShared lists the names of the shared limits.
func (r *reader) knownShared() string {
	const most = 10
	var names []string
	for _, s := range r.shared[:min(len(r.shared), most)] {
		names = append(names, s.name)
	}
	switch more := len(r.shared) - most; {
	case len(names) == 0:
		return "the file has none"
	case more > 0:
		names = append(names, strconv.Itoa(more)+" more")
	}
	return "the shared limits are " + strings.Join(names, ", ")
}

// allShared returns the shared limits, which have no errors.
func (r *reader) allShared() (all []*policy.Shared) {
	for _, s := range r.shared {
		all = append(all, s.limit)
	}
	return all
}
