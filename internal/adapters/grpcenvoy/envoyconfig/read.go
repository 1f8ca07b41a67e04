package envoyconfig

import (
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// field reads the value of one.
type field = func(value ast.Node, at *token.Token)

// read returns a file's domain and its tree. What is wrong is in errs.
func (r *reader) read(text []byte) (string, *node) {
	root := newNode()
	body := r.parse(text)
	if body == nil {
		return "", root
	}
	var tree ast.Node
	given := r.fields(body, "a configuration", map[string]field{
		"domain":      func(v ast.Node, _ *token.Token) { r.domain = r.text(v, "domain") },
		"descriptors": func(v ast.Node, _ *token.Token) { tree = v },
	})
	if given != nil && r.domain == "" {
		r.fail(body.GetToken(), "domain: must be there, and must not be empty")
	}
	if tree != nil { // once the domain is known, wherever it stands
		r.descriptors(tree, root, nil)
	}
	return r.domain, root
}

func newNode() *node { return &node{exact: map[entry]*node{}, any: map[string]*node{}} }

// descriptor is one of the file's, as it is written.
type descriptor struct {
	key, value string
	limit      *Rule
	quota      bool
	share      bool
	shadow     bool
	below      ast.Node
	at, keyAt  *token.Token
}

// descriptors reads the list below a node. path has the descriptors above.
func (r *reader) descriptors(n ast.Node, into *node, path []descriptor) {
	if len(path) == domain.MaxDescriptorEntries {
		r.fail(n.GetToken(), "descriptors: nest deeper than %d levels", domain.MaxDescriptorEntries)
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

// add hangs a descriptor's node below n, unless there is one like it.
func (n *node) add(d *descriptor, to *node) bool {
	prefix, wild := strings.CutSuffix(d.value, "*")
	switch {
	case wild:
		for _, w := range n.wildcards {
			if w.key == d.key && w.prefix == prefix {
				return false
			}
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

// descriptor reads one of a list. It is false if anything was wrong with it, but for what lies below.
func (r *reader) descriptor(n ast.Node) (d descriptor, ok bool) {
	before := len(r.errs)
	d.at = n.GetToken()
	metrics := func(name string) field { // they name metrics of that project; decisions do not depend on them
		return func(v ast.Node, _ *token.Token) { r.boolean(v, name) }
	}
	given := r.fields(n, "a descriptor", map[string]field{
		"key":             func(v ast.Node, _ *token.Token) { d.key = r.text(v, "key") },
		"value":           func(v ast.Node, _ *token.Token) { d.value = r.text(v, "value") },
		"rate_limit":      func(v ast.Node, _ *token.Token) { d.limit = r.limit(v) },
		"shadow_mode":     func(v ast.Node, _ *token.Token) { d.shadow = r.boolean(v, "shadow_mode") },
		"quota_mode":      func(v ast.Node, _ *token.Token) { d.quota = r.boolean(v, "quota_mode") },
		"share_threshold": func(v ast.Node, _ *token.Token) { d.share = r.boolean(v, "share_threshold") },
		"detailed_metric": metrics("detailed_metric"),
		"value_to_metric": metrics("value_to_metric"),
		"descriptors":     func(v ast.Node, _ *token.Token) { d.below = v },
	})
	if given == nil {
		return d, false
	}
	d.keyAt = d.at
	if at := given["key"]; at != nil {
		d.keyAt = at
	}
	switch {
	case d.key == "":
		r.fail(d.keyAt, "key: must be there, and must not be empty")
	case d.value == "" && strings.HasSuffix(d.key, "*"):
		r.fail(d.keyAt, "key: %s: must not end with *: a wildcard stands at the end of a value", shown(d.key))
	}
	if d.quota {
		r.fail(given["quota_mode"], "quota_mode: true cannot be honoured: the answer has no metadata that would tell of it; "+
			"shadow_mode lets pass, too")
	}
	if d.share && !strings.HasSuffix(d.value, "*") {
		r.fail(given["share_threshold"], "share_threshold: needs a value that ends with *")
	}
	return d, before == len(r.errs)
}

// limit reads a rate_limit. The policy is made later, when its place is known.
func (r *reader) limit(n ast.Node) *Rule {
	before := len(r.errs)
	rule := &Rule{}
	var unit string
	given := r.fields(n, "rate_limit", map[string]field{
		"name":              func(v ast.Node, _ *token.Token) { rule.Name = r.text(v, "name") },
		"unit":              func(v ast.Node, _ *token.Token) { unit = r.text(v, "unit") },
		"requests_per_unit": func(v ast.Node, _ *token.Token) { rule.Quota.Requests = r.number(v, "requests_per_unit") },
		"unlimited":         func(v ast.Node, _ *token.Token) { rule.Unlimited = r.boolean(v, "unlimited") },
		"replaces":          func(v ast.Node, _ *token.Token) { rule.Replaces = r.replaces(v) },
	})
	if given == nil {
		return nil
	}
	var known bool
	rule.Quota.Unit, known = ParseUnit(unit)
	switch {
	case before < len(r.errs):
	case rule.Unlimited && (given["unit"] != nil || rule.Quota.Requests > 0):
		r.fail(n.GetToken(), "rate_limit: unlimited must stand without unit and requests_per_unit")
	case rule.Unlimited:
	case !known:
		r.fail(or(given["unit"], n.GetToken()), "unit: %s: must be second, minute, hour, day, week, month or year", shown(unit))
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
			"name": func(v ast.Node, _ *token.Token) { name = r.text(v, "name") },
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

// rule completes the rule of the last descriptor of a path.
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
	if err := rule.complete(policyName(r.domain, path), r.failure); err != nil {
		r.fail(last.keyAt, "rate_limit: %v", err)
		return nil
	}
	return rule
}

// policyName is what logs and metrics call a rule: its domain and the keys and values on the way to it. Two rules whose
// names are cut to the same may share one, since their buckets hold the whole descriptor.
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

func or(a, b *token.Token) *token.Token {
	if a != nil {
		return a
	}
	return b
}
