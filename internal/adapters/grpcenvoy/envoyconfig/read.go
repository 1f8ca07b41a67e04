package envoyconfig

import (
	"cmp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// field reads the value of a field.
type field = func(ast.Node)

// read returns the domain of a file and its tree. Errors are in r.errs.
func (r *reader) read(text []byte) (string, *node) {
	root := newNode()
	body := r.parse(text)
	if body == nil {
		return "", root
	}
	var tree ast.Node
	given := r.fields(body, "a configuration", map[string]field{
		"domain":      func(v ast.Node) { r.domain = r.text(v, "domain") },
		"descriptors": func(v ast.Node) { tree = v },
	})
	if given != nil && r.domain == "" {
		r.fail(body.GetToken(), "domain: must be there, and must not be empty")
	}
	if tree != nil { // after all fields, since the rules need the domain
		r.descriptors(tree, root, nil)
	}
	return r.domain, root
}

func newNode() *node { return &node{exact: map[entry]*node{}, any: map[string]*node{}} }

// descriptor is a descriptor as it is written in the file.
type descriptor struct {
	key, value           string
	limit                *Rule
	quota, share, shadow bool
	below                ast.Node
	keyAt                *token.Token // of the descriptor, if it has no key
}

// descriptors reads a list of descriptors into a node. path has the descriptors above it.
func (r *reader) descriptors(n ast.Node, into *node, path []descriptor) {
	if len(path) == policy.MaxDescriptorEntries {
		r.fail(n.GetToken(), "descriptors: nest deeper than %d levels", policy.MaxDescriptorEntries)
		return
	}
	r.list(n, "descriptors", func(item ast.Node) {
		d, ok := r.descriptor(item)
		if !ok {
			return
		}
		to := newNode()
		if !into.add(&d, to) {
			r.fail(d.keyAt, "there are two descriptors of key %s and value %s in this list", shown(d.key), shown(d.value))
			return
		}
		here := append(slices.Clip(path), d)
		if d.limit != nil {
			r.rules++
			to.rule = r.rule(here)
		}
		if d.below != nil {
			r.descriptors(d.below, to, here)
		}
	})
}

// add adds a descriptor's node below n. It reports false if n already has one for the same key and value.
func (n *node) add(d *descriptor, to *node) bool {
	prefix, wild := strings.CutSuffix(d.value, "*")
	switch {
	case wild:
		if slices.ContainsFunc(n.wildcards, func(w wildcard) bool { return w.key == d.key && w.prefix == prefix }) {
			return false
		}
		n.wildcards = append(n.wildcards, wildcard{d.key, prefix, to})
	case d.value != "":
		if n.exact[entry{d.key, d.value}] != nil {
			return false
		}
		n.exact[entry{d.key, d.value}] = to
	default:
		if n.any[d.key] != nil {
			return false
		}
		n.any[d.key] = to
	}
	return true
}

// descriptor reads a descriptor without those below it. It reports false if there was an error.
func (r *reader) descriptor(n ast.Node) (d descriptor, ok bool) {
	before := len(r.errs)
	metrics := func(name string) field { // fields for metrics of envoyproxy/ratelimit, which do not change decisions
		return func(v ast.Node) { r.boolean(v, name) }
	}
	given := r.fields(n, "a descriptor", map[string]field{
		"key":             func(v ast.Node) { d.key = r.text(v, "key") },
		"value":           func(v ast.Node) { d.value = r.text(v, "value") },
		"rate_limit":      func(v ast.Node) { d.limit = r.limit(v) },
		"shadow_mode":     func(v ast.Node) { d.shadow = r.boolean(v, "shadow_mode") },
		"quota_mode":      func(v ast.Node) { d.quota = r.boolean(v, "quota_mode") },
		"share_threshold": func(v ast.Node) { d.share = r.boolean(v, "share_threshold") },
		"detailed_metric": metrics("detailed_metric"),
		"value_to_metric": metrics("value_to_metric"),
		"descriptors":     func(v ast.Node) { d.below = v },
	})
	if given == nil {
		return d, false
	}
	d.keyAt = cmp.Or(given["key"], n.GetToken())
	switch {
	case d.key == "":
		r.fail(d.keyAt, "key: must be there, and must not be empty")
	case d.value == "" && strings.HasSuffix(d.key, "*"):
		r.fail(d.keyAt, "key: %s: must not end with *: a wildcard stands at the end of a value", shown(d.key))
	}
	if d.quota {
		r.fail(given["quota_mode"], "quota_mode: true is not supported: the answer has no metadata for it; "+
			"shadow_mode lets requests pass too")
	}
	if d.share && !strings.HasSuffix(d.value, "*") {
		r.fail(given["share_threshold"], "share_threshold: needs a value that ends with *")
	}
	return d, before == len(r.errs)
}

// limit reads a rate_limit. rule makes its policy later, when the path is known.
func (r *reader) limit(n ast.Node) *Rule {
	before := len(r.errs)
	rule := &Rule{}
	var unit string
	given := r.fields(n, "rate_limit", map[string]field{
		"name":              func(v ast.Node) { rule.Name = r.text(v, "name") },
		"unit":              func(v ast.Node) { unit = r.text(v, "unit") },
		"requests_per_unit": func(v ast.Node) { rule.Rate.Requests = r.number(v, "requests_per_unit") },
		"unlimited":         func(v ast.Node) { rule.Unlimited = r.boolean(v, "unlimited") },
		"replaces":          func(v ast.Node) { rule.Replaces = r.replaces(v) },
	})
	if given == nil {
		return nil
	}
	var known bool
	rule.Rate.Unit, known = parseUnit(unit)
	switch {
	case before < len(r.errs):
	case rule.Unlimited && (given["unit"] != nil || rule.Rate.Requests > 0):
		r.fail(n.GetToken(), "rate_limit: unlimited must not have unit or requests_per_unit")
	case rule.Unlimited:
	case !known:
		r.fail(cmp.Or(given["unit"], n.GetToken()), "unit: %s: must be second, minute, hour, day, week, month or year", shown(unit))
	case given["requests_per_unit"] == nil:
		r.fail(n.GetToken(), "requests_per_unit: is missing")
	}
	if rule.Name != "" && slices.Contains(rule.Replaces, rule.Name) {
		r.fail(given["replaces"], "replaces: %s: is the name of this limit itself", shown(rule.Name))
	}
	return rule
}

func (r *reader) replaces(n ast.Node) (names []string) {
	r.list(n, "replaces", func(item ast.Node) {
		name := ""
		if r.fields(item, "replaces", map[string]field{
			"name": func(v ast.Node) { name = r.text(v, "name") },
		}) == nil {
			return
		}
		if name == "" {
			r.fail(item.GetToken(), "replaces: name: must be there, and must not be empty")
		}
		names = append(names, name)
	})
	return names
}

// rule completes the rule of the last descriptor in path.
func (r *reader) rule(path []descriptor) *Rule {
	last := &path[len(path)-1]
	rule := last.limit
	rule.Shadow = last.shadow
	rule.shared = make([]string, len(path))
	for i := range path {
		if path[i].share {
			rule.shared[i] = path[i].value
		}
	}
	if err := rule.complete(policyName(r.domain, path), r.options); err != nil {
		r.fail(last.keyAt, "rate_limit: %v", err)
		return nil
	}
	return rule
}

// policyName returns the name of a rule in logs and metrics, made from its domain and the keys and values of path. Long names
// are cut, so two rules may have the same name. Their buckets differ all the same, since a bucket's key has the descriptor.
func policyName(domainName string, path []descriptor) string {
	text := "envoy-" + domainName
	for i := range path {
		text += "-" + path[i].key
		if path[i].value != "" {
			text += "-" + path[i].value
		}
	}
	const longest = 63
	name := make([]byte, 0, longest)
	for i := range min(len(text), longest) {
		c := text[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_', c == '-':
		default:
			c = '_'
		}
		name = append(name, c)
	}
	return string(name)
}
