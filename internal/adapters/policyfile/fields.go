package policyfile

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// field is one field of a mapping: how the schema describes it, and how it is read. The tables of fields are the
// format: both the reader and the schema are made of them.
type field[T any] struct {
	name     string
	required bool
	about    string
	schema   schema
	read     func(r *reader, p place, into *T)
}

func names[T any](table []field[T]) (names []string) {
	for _, f := range table {
		names = append(names, f.name)
	}
	return names
}

// document is a whole file.
type document struct{ policies []domain.Policy }

var documentFields = []field[document]{
	{
		"policies", true, "The policies; the first that matches a request applies.",
		listOf(objectOf(policyFields), 1, domain.MaxPolicies), readPolicies,
	},
}

func readPolicies(r *reader, p place, into *document) {
	if list, ok := p.node.(*ast.SequenceNode); ok && len(list.Values) == 0 {
		r.bad(p, "", "there must be one policy at least")
	}
	lines := map[string]int{}
	r.list(p, "policies", func(item place) {
		policy := domain.Policy{OnStoreFailure: r.options.OnStoreFailure}
		r.overridden, r.limitKeys, r.patterns = nil, nil, nil
		given, right := object(r, item, policyFields, &policy)
		if name, at := policy.Name, given["name"]; name != "" {
			if line, twice := lines[name]; twice {
				r.bad(at, shown(name), "there is a policy of this name on line "+strconv.Itoa(line))
				right = false
			} else {
				lines[name] = at.at.Line
			}
		}
		if right {
			r.relate(item, given, &policy)
		}
		into.policies = append(into.policies, policy)
	})
}

// relate checks what concerns several fields.
func (r *reader) relate(p place, given map[string]place, policy *domain.Policy) {
	before := len(r.errs)
	for _, o := range r.overridden {
		if !slices.ContainsFunc(policy.Limits, func(l domain.Limit) bool { return l.Name() == o.name }) {
			r.bad(o.at, shown(o.name), "is no limit of this policy")
		}
	}
	if before < len(r.errs) {
		return
	}
	for _, err := range fieldErrors(policy.Validate()) {
		r.refuse(r.placeOf(err, p, given), err)
	}
}

// placeOf finds the field of a policy that the domain names: "key", "match.domain", "limits.tenant.key", or "exempt" with
// one of its patterns.
func (r *reader) placeOf(err *domain.FieldError, policy place, given map[string]place) place {
	for _, key := range r.limitKeys {
		if err.Field == "limits."+key.name+".key" {
			return key.at
		}
	}
	for _, pattern := range r.patterns {
		if err.Value == strconv.Quote(pattern.name) && strings.HasPrefix(pattern.at.field, joined(policy.field, err.Field)) {
			return pattern.at
		}
	}
	at := policy
	name, _, _ := strings.Cut(err.Field, ".")
	if found, ok := given[name]; ok {
		at = found
	}
	at.field = joined(policy.field, err.Field)
	return at
}

func fieldErrors(err error) []*domain.FieldError {
	var all []*domain.FieldError
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			all = append(all, fieldErrors(e)...)
		}
		return all
	}
	var one *domain.FieldError
	if errors.As(err, &one) {
		all = append(all, one)
	}
	return all
}

var policyFields = []field[domain.Policy]{
	{
		"name", true, "Unique; part of every bucket's key, so that a new name starts with full buckets.", nameSchema,
		func(r *reader, p place, into *domain.Policy) { into.Name = r.name(p) },
	},
	{
		"match", false, "Which requests the policy applies to; without it, every HTTP request.", objectOf(matchFields),
		func(r *reader, p place, into *domain.Policy) { object(r, p, matchFields, &into.Match) },
	},
	{
		"key", false, "What tells clients apart: a source or a list of them; without it, the client's address.", keySchema,
		func(r *reader, p place, into *domain.Policy) { into.Key = r.key(p) },
	},
	{
		"cost", false, "Tokens that a request costs, or header:NAME, which is believed from trusted proxies.", costSchema,
		func(r *reader, p place, into *domain.Policy) { into.Cost = r.cost(p) },
	},
	{
		"limits", true, "All of them pass, or none is taken.", listOf(objectOf(limitFields), 1, domain.MaxLimits), readLimits,
	},
	{
		"overrides", false, "Other limits for some clients; the first whose keys match applies.",
		listOf(objectOf(overrideFields), 0, domain.MaxOverrides), readOverrides,
	},
	{
		"exempt", false, "Patterns of clients that are never limited; networks, where the key is an address.", patternsSchema(0),
		func(r *reader, p place, into *domain.Policy) {
			into.Exempt = r.patternsOf(p)
		},
	},
	{
		"block", false, "Patterns of clients that never pass: 403; networks, where the key is an address.", patternsSchema(0),
		func(r *reader, p place, into *domain.Policy) {
			into.Block = r.patternsOf(p)
		},
	},
	{
		"mode", false, "Or shadow: decide, count and log, but let pass.", oneOf("enforce", "shadow"),
		func(r *reader, p place, into *domain.Policy) { into.Mode = parsed(r, p, domain.ParseMode) },
	},
	{
		"on_store_failure", false, "What is decided while the store fails; without it, VELOCITY_ON_STORE_FAILURE.",
		oneOf("open", "closed", "local"),
		func(r *reader, p place, into *domain.Policy) { into.OnStoreFailure = r.failureMode(p) },
	},
	{
		"refund_on", false, "Statuses of the upstream's answer, or classes of them, after which the tokens come back.",
		refundSchema,
		func(r *reader, p place, into *domain.Policy) { into.RefundOn = r.refundOn(p) },
	},
}

var matchFields = []field[domain.Match]{
	{
		"methods", false, "In upper case; HEAD counts as GET.", listOf(textOf(`^[A-Z-]+$`), 1, domain.MaxMethods),
		func(r *reader, p place, into *domain.Match) { into.Methods = r.texts(p, "methods", domain.CheckMethod) },
	},
	{
		"host", false, "A name, or *.NAME for all below it; case and port do not count.", textOf(""),
		func(r *reader, p place, into *domain.Match) { into.Host = r.checked(p, domain.CheckHost) },
	},
	{
		"path", false, "Segments; * is any one, ** at the end any number.", textOf(`^/`),
		func(r *reader, p place, into *domain.Match) { into.Path = r.checked(p, domain.CheckPath) },
	},
	{
		"domain", false, "Of the requests of Envoy; needs a descriptor.", textOf(""),
		func(r *reader, p place, into *domain.Match) { into.Domain, _ = r.text(p) },
	},
	{
		"descriptor", false, "Exactly these entries, NAME=VALUE or NAME for any value, in this order; needs a domain.",
		listOf(textOf(""), 1, domain.MaxDescriptorEntries),
		func(r *reader, p place, into *domain.Match) {
			r.list(p, "entries", func(item place) {
				into.Descriptor = append(into.Descriptor, parsed(r, item, domain.ParseDescriptorPattern))
			})
		},
	},
}

// parsed reads a text that parse accepts.
func parsed[V any](r *reader, p place, parse func(string) (V, error)) (value V) {
	s, ok := r.text(p)
	if !ok {
		return value
	}
	value, err := parse(s)
	if err != nil {
		r.refuse(p, err)
	}
	return value
}

func (r *reader) checked(p place, check func(string) error) string {
	return parsed(r, p, func(s string) (string, error) { return s, check(s) })
}

func (r *reader) name(p place) string {
	s, ok := r.text(p)
	if ok && !domain.ValidName(s) {
		r.bad(p, shown(s), "must match "+namePattern)
		return ""
	}
	return s
}

func (r *reader) key(p place) (key domain.Key) {
	if list, isList := p.node.(*ast.SequenceNode); isList {
		for i, node := range list.Values {
			key = append(key, parsed(r, p.index(i, node), parseSource))
		}
		if len(key) == 0 {
			r.bad(p, "", "must have one source at least")
		}
		return key
	}
	return domain.Key{parsed(r, p, parseSource)}
}

// parseSource leaves the descriptor out: that is the key of whatever matches by one.
func parseSource(s string) (domain.KeySource, error) {
	source, err := domain.ParseKeySource(s)
	if err == nil && source.Kind == domain.SourceDescriptor {
		return source, wrongValue(s, "is the key of whatever matches by a descriptor: leave key out there")
	}
	return source, err
}

func wrongValue(s, reason string) error {
	return &domain.FieldError{Kind: domain.ErrInvalidPolicy, Value: shown(s), Reason: reason}
}

func (r *reader) cost(p place) domain.Cost {
	if _, isNumber := p.node.(*ast.IntegerNode); isNumber {
		fixed, _ := r.integer(p, 1, domain.MaxCost)
		return domain.Cost{Fixed: fixed}
	}
	source := parsed(r, p, func(s string) (domain.KeySource, error) {
		source, err := domain.ParseKeySource(s)
		if err != nil || source.Kind != domain.SourceHeader {
			return source, wrongValue(s, "must be a whole number or header:NAME")
		}
		return source, nil
	})
	return domain.Cost{Header: source.Name}
}

func (r *reader) failureMode(p place) domain.FailureMode {
	return parsed(r, p, func(s string) (domain.FailureMode, error) {
		if mode := domain.FailureMode(s); mode.Valid() {
			return mode, nil
		}
		return domain.FailOpen, wrongValue(s, "must be open, closed or local")
	})
}

func (r *reader) refundOn(p place) domain.StatusSet {
	set, _ := domain.ParseRefundOn(r.texts(p, "statuses", func(s string) error {
		_, err := domain.ParseRefundOn(s)
		return err
	})...)
	return set
}

// limitSpec is a limit as the file has it.
type limitSpec struct {
	name     string
	refill   domain.Tokens
	per      time.Duration
	capacity domain.Tokens
	key      domain.Key
	keyAt    place
}

// overrideLimitFields are those of an override's limits.
var overrideLimitFields = []field[limitSpec]{
	{
		"name", false, "Unique in its policy; without it, default.", nameSchema,
		func(r *reader, p place, into *limitSpec) { into.name = r.name(p) },
	},
	{
		"rate", true, "Refill of the bucket, <tokens>/<duration>: 5/s, 100/m, 1000/h, 10000/24h, 3/250ms.", textOf(`^[0-9]+/.+$`),
		func(r *reader, p place, into *limitSpec) {
			s, ok := r.text(p)
			if !ok {
				return
			}
			var err error
			if into.refill, into.per, err = domain.ParseRate(s); err != nil {
				r.refuse(p, err)
			}
		},
	},
	{
		"capacity", true, "Tokens that a full bucket holds, and so the largest burst.",
		schema{"type": "integer", "minimum": 1, "maximum": int64(domain.MaxTokens)},
		func(r *reader, p place, into *limitSpec) { into.capacity, _ = r.integer(p, 1, domain.MaxTokens) },
	},
}

// limitFields are those of a policy's limits.
var limitFields = append(slices.Clip(overrideLimitFields), field[limitSpec]{
	"key", false, "By which the limit counts, if not by the policy's.", keySchema,
	func(r *reader, p place, into *limitSpec) {
		into.key, into.keyAt = r.key(p), p
	},
})

// limit reads one limit, and where its name stands.
func (r *reader) limit(p place, table []field[limitSpec]) (limit domain.Limit, spec limitSpec, at place, right bool) {
	given, right := object(r, p, table, &spec)
	if spec.name == "" {
		spec.name = domain.DefaultLimitName
	}
	at = p
	if name, named := given["name"]; named {
		at = name
	}
	if !right {
		return limit, spec, at, false
	}
	limit, err := domain.NewLimit(spec.name, spec.capacity, spec.refill, spec.per)
	for _, wrong := range fieldErrors(err) {
		r.refuse(given[wrong.Field], wrong)
	}
	return limit, spec, at, err == nil
}

func readLimits(r *reader, p place, into *domain.Policy) {
	if list, ok := p.node.(*ast.SequenceNode); ok && (len(list.Values) == 0 || len(list.Values) > domain.MaxLimits) {
		r.bad(p, strconv.Itoa(len(list.Values)), "there must be from 1 to "+strconv.Itoa(domain.MaxLimits)+" limits")
	}
	lines := map[string]int{}
	r.list(p, "limits", func(item place) {
		limit, spec, at, right := r.limit(item, limitFields)
		if line, twice := lines[spec.name]; twice {
			r.bad(at, shown(spec.name), "there is a limit of this name on line "+strconv.Itoa(line))
			return
		}
		lines[spec.name] = at.at.Line
		if !right {
			return
		}
		into.Limits = append(into.Limits, limit)
		if spec.key != nil {
			if into.LimitKeys == nil {
				into.LimitKeys = map[string]domain.Key{}
			}
			into.LimitKeys[spec.name] = spec.key
			r.limitKeys = append(r.limitKeys, namedPlace{spec.name, spec.keyAt})
		}
	})
}

var overrideFields = []field[domain.Override]{
	{
		"keys", true, "Patterns of the policy's own key: a text, in which one * may stand for any text, or a network, where it is an address.", patternsSchema(1),
		func(r *reader, p place, into *domain.Override) {
			if list, ok := p.node.(*ast.SequenceNode); ok && len(list.Values) == 0 {
				r.bad(p, "", "must have one pattern at least")
			}
			into.Keys = r.patternsOf(p)
		},
	},
	{
		"limits", true, "By name; the policy's other limits stay.", listOf(objectOf(overrideLimitFields), 1, domain.MaxLimits),
		func(r *reader, p place, into *domain.Override) {
			if list, ok := p.node.(*ast.SequenceNode); ok && len(list.Values) == 0 {
				r.bad(p, "", "must have one limit at least")
			}
			r.list(p, "limits", func(item place) {
				limit, spec, at, right := r.limit(item, overrideLimitFields)
				r.overridden = append(r.overridden, namedPlace{spec.name, at})
				if right {
					into.Limits = append(into.Limits, limit)
				}
			})
		},
	},
}

func readOverrides(r *reader, p place, into *domain.Policy) {
	r.list(p, "overrides", func(item place) {
		var o domain.Override
		object(r, item, overrideFields, &o)
		into.Overrides = append(into.Overrides, o)
	})
}
