package policyfile

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// field is one field of a mapping: how the schema describes it, and how it is read. Tables of fields define the format for
// both the reader and the schema.
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

// document is a whole file. Its fields are read in this order, whatever theirs in the file.
type document struct{ jwt, shared, policies place }

var documentFields = []field[document]{
	{
		"jwt", false, "Which tokens (JWT) are believed, for keys and conditions by their claims.", objectOf(jwtFields),
		func(_ *reader, p place, into *document) { into.jwt = p },
	},
	{
		"shared", false, "Limits that several policies use; what a client spends counts under all of them.",
		listOf(limitSchema(sharedFields, true), 0, policy.MaxShared),
		func(_ *reader, p place, into *document) { into.shared = p },
	},
	{
		"policies", true, "The policies; the first that matches a request applies.",
		listOf(objectOf(policyFields), 1, policy.MaxPolicies),
		func(_ *reader, p place, into *document) { into.policies = p },
	},
}

func readPolicies(r *reader, p place) (policies []policy.Policy) {
	lines := map[string]int{}
	r.list(p, "policies", "there must be at least one policy", func(item place) {
		own := policy.Policy{OnStoreFailure: r.onStoreFailure}
		r.specs, r.overrides, r.limitKeys, r.patterns, r.patternErrs = map[string]limitspec.Spec{}, nil, nil, nil, nil
		r.policyName, r.usesWrong, r.costParts = nameIn(item.node), false, nil
		given, right := object(r, item, policyFields, &own)
		r.hidePatterns(own.Key, given, own.LimitKeys)
		if name, at := own.Name, given["name"]; name != "" {
			if line, twice := lines[name]; twice {
				r.bad(at, shown(name), "there is a policy of this name on line "+strconv.Itoa(line))
				right = false
			} else {
				lines[name] = at.at.Line
			}
		}
		right = right && !r.usesWrong
		if r.overrideLimits(&own, right, own.NotALimit()) && right {
			r.refuseAll(item, given, own.Validate())
		}
		policies = append(policies, own)
	})
	return policies
}

// nameIn returns the name of a policy, which may follow its limits in the file. For a name that is missing or wrong, which is
// reported elsewhere, it returns the default's.
func nameIn(node ast.Node) string {
	if m, ok := node.(*ast.MappingNode); ok {
		for _, entry := range m.Values {
			if name := entry.Value.GetToken().Value; keyText(entry.Key) == "name" && domain.ValidName(name) {
				return name
			}
		}
	}
	return policy.DefaultName
}

// refuseAll reports the errors of package domain about a policy or a shared limit, at the places of its fields.
func (r *reader) refuseAll(p place, given map[string]place, err error) {
	for _, err := range domain.FieldErrors(err) {
		r.refuse(r.placeOf(err, p, given), err)
	}
}

// placeOf returns the place of the field that an error of package domain names: "key", "match.domain", "limits.tenant.key",
// "cost.estimate[1]", or "exempt" with one of its patterns, or "exempt[1]".
func (r *reader) placeOf(err *domain.FieldError, p place, given map[string]place) place {
	for _, key := range r.limitKeys {
		if err.Field == "limits."+key.name+".key" {
			return key.at
		}
	}
	for _, part := range r.costParts {
		if err.Field == part.name {
			return part.at
		}
	}
	for _, pattern := range r.patterns {
		named := err.Value == strconv.Quote(pattern.name) && strings.HasPrefix(pattern.at.field, joined(p.field, err.Field))
		if named || pattern.at.field == joined(p.field, err.Field) {
			return pattern.at
		}
	}
	name, _, _ := strings.Cut(err.Field, ".")
	at := cmp.Or(given[name], p)
	at.field = joined(p.field, err.Field)
	return at
}

var policyFields = []field[policy.Policy]{
	{
		"name", true, "Unique; part of every bucket's key, so that a new name starts with full buckets.", nameSchema,
		func(r *reader, p place, into *policy.Policy) { into.Name = r.name(p) },
	},
	{
		"match", false, "Which requests the policy applies to; without it, every HTTP request.", objectOf(matchFields),
		func(r *reader, p place, into *policy.Policy) { object(r, p, matchFields, &into.Match) },
	},
	{
		"key", false, "What distinguishes clients: a source or a list of them; without it, the client's address.", keySchema,
		func(r *reader, p place, into *policy.Policy) { into.Key = r.key(p) },
	},
	{
		"missing_key", false, "A request without the policy's key: address counts it by its client's address, refuse answers 401.", oneOf("address", "refuse"),
		func(r *reader, p place, into *policy.Policy) { into.MissingKey = parsed(r, p, policy.ParseMissingKey) },
	},
	{
		"cost", false, "Tokens that a request costs; or header:NAME, which counts from trusted proxies only; or an estimate and where the actual cost is.", costSchema,
		func(r *reader, p place, into *policy.Policy) { into.Cost = r.cost(p) },
	},
	{
		"max_wait", false, "How long a request may wait for tokens of a rate that are yet to come, instead of being denied; without it, 0s.",
		durationSchema,
		func(r *reader, p place, into *policy.Policy) { into.MaxWait = parsed(r, p, policy.ParseMaxWait) },
	},
	{
		"limits", true, "A request takes from all limits or from none.", listOf(anyOf(limitSchema(limitFields, true), objectOf(useFields)), 1, policy.MaxLimits), readLimits,
	},
	{
		"overrides", false, "Other limits for some clients; the first whose keys or conditions fit applies.",
		listOf(overrideSchema(), 0, policy.MaxOverrides), readOverrides,
	},
	{
		"exempt", false, "Patterns of clients that are never limited; networks, where the key is an address.", patternsSchema(0),
		func(r *reader, p place, into *policy.Policy) { into.Exempt = r.patternsOf(p, "") },
	},
	{
		"block", false, "Patterns of clients that never pass: 403; networks, where the key is an address.", patternsSchema(0),
		func(r *reader, p place, into *policy.Policy) { into.Block = r.patternsOf(p, "") },
	},
	{
		"mode", false, "enforce denies; shadow decides, counts and logs, but lets every request pass.", oneOf("enforce", "shadow"),
		func(r *reader, p place, into *policy.Policy) { into.Mode = parsed(r, p, policy.ParseMode) },
	},
	{
		"on_store_failure", false, "What to decide while the store fails; without it, VELOCITY_ON_STORE_FAILURE.",
		oneOf("open", "closed", "local"),
		func(r *reader, p place, into *policy.Policy) { into.OnStoreFailure = r.failureMode(p) },
	},
	{
		"refund_on", false, "Statuses of the upstream's answer, or classes of them, after which the tokens are refunded.",
		refundSchema,
		func(r *reader, p place, into *policy.Policy) { into.RefundOn = r.refundOn(p) },
	},
	{
		"skip_preflight", false, "true: preflights of CORS pass and cost nothing, but for blocked clients.",
		schema{"type": "boolean"},
		func(r *reader, p place, into *policy.Policy) { into.SkipPreflight = r.truth(p) },
	},
	{
		"denied", false, "The answer to a request that a limit denied, in place of the usual problem.", deniedSchema(), readDenied,
	},
}

var matchFields = []field[policy.Match]{
	{
		"methods", false, "In upper case; HEAD counts as GET.", listOf(textOf(`^[A-Z-]+$`), 1, policy.MaxMethods),
		func(r *reader, p place, into *policy.Match) { into.Methods = r.texts(p, "methods", policy.CheckMethod) },
	},
	{
		"host", false, "A name, or *.NAME for all below it; case and port do not count.", textOf(""),
		func(r *reader, p place, into *policy.Match) { into.Host = r.checked(p, policy.CheckHost) },
	},
	{
		"path", false, "Segments; * is any one, ** at the end any number.", textOf(`^/`),
		func(r *reader, p place, into *policy.Match) { into.Path = r.checked(p, policy.CheckPath) },
	},
	{
		"headers", false, "Headers that must all have one of their values, compared as a whole; believed from any client.",
		conditionsSchema(headerPattern),
		func(r *reader, p place, into *policy.Match) { into.Headers = r.conditions(p, parseHeaderName) },
	},
	{
		"domain", false, "Of the requests of Envoy; needs a descriptor.", textOf(""),
		func(r *reader, p place, into *policy.Match) { into.Domain, _ = r.text(p) },
	},
	{
		"descriptor", false, "Exactly these entries, NAME=VALUE or NAME for any value, in this order; needs a domain.",
		listOf(textOf(""), 1, policy.MaxDescriptorEntries),
		func(r *reader, p place, into *policy.Match) {
			r.list(p, "entries", "", func(item place) {
				into.Descriptor = append(into.Descriptor, parsed(r, item, policy.ParseDescriptorPattern))
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

func wrongValue(s, reason string) error {
	return &domain.FieldError{Kind: domain.ErrInvalidPolicy, Value: shown(s), Reason: reason}
}

func (r *reader) failureMode(p place) policy.FailureMode {
	return parsed(r, p, func(s string) (policy.FailureMode, error) {
		if mode := policy.FailureMode(s); mode.Valid() {
			return mode, nil
		}
		return policy.FailOpen, wrongValue(s, "must be open, closed or local")
	})
}

func (r *reader) refundOn(p place) policy.StatusSet {
	set, _ := policy.ParseRefundOn(r.texts(p, "statuses", func(s string) error {
		_, err := policy.ParseRefundOn(s)
		return err
	})...)
	return set
}
