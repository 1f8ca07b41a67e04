package policyfile

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/goccy/go-yaml/ast"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/limitspec"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// writtenLimit is a limit as the file has it.
type writtenLimit struct {
	limitspec.Spec
	key   clientkey.Key
	keyAt place
	at    place            // of the limit
	given map[string]place // its fields
	// overrides are those of a shared limit.
	overrides []policy.Override
}

// nameAt is the place of the name, or of a limit without a name.
func (w *writtenLimit) nameAt() place { return cmp.Or(w.given["name"], w.at) }

// overrideLimitFields are the fields of an override's limits.
var overrideLimitFields = []field[writtenLimit]{
	{
		"name", false, "Unique in its policy; without it, the name of the policy.", nameSchema,
		func(r *reader, p place, into *writtenLimit) { into.Name = r.name(p) },
	},
	{
		"rate", false, "Refill of a bucket, <tokens>/<duration>: 5/s, 100/m, 1000/h, 3/250ms. For a number per day use a quota.",
		textOf(`^[0-9]+/.+$`),
		func(r *reader, p place, into *writtenLimit) { into.Rate = r.checked(p, limitspec.CheckRate) },
	},
	{
		"capacity", false, "Tokens that a full bucket holds, and so the largest burst.",
		schema{"type": "integer", "minimum": 1, "maximum": int64(domain.MaxTokens)},
		func(r *reader, p place, into *writtenLimit) { into.Capacity, _ = r.integer(p, 1, domain.MaxTokens) },
	},
	{
		"quota", false,
		"Tokens in each period, instead of rate and capacity, <tokens>/<period>: minute, hour, day, week, month, year or a duration. 1000/day, 10000/24h.",
		textOf(`^[0-9]+/(minute|hour|day|week|month|year|([0-9.]+(h|m|[mnuµμ]?s))+)$`),
		func(r *reader, p place, into *writtenLimit) { into.Quota = r.checked(p, limitspec.CheckQuota) },
	},
	{
		"zone", false, "Time zone in which a quota's days, weeks, months and years start, as in Europe/Berlin; without it, UTC.",
		textOf(`^[A-Za-z]`),
		func(r *reader, p place, into *writtenLimit) { into.Zone = r.checked(p, limitspec.CheckZone) },
	},
	{
		"anchor", false, "Date, or time with its offset, from which a quota's periods are counted; without it, the calendar's own starts.",
		textOf(`^[0-9]{4}-[0-9]{2}-[0-9]{2}(T.+(Z|[+-][0-9]{2}:[0-9]{2}))?$`),
		func(r *reader, p place, into *writtenLimit) { into.Anchor = r.checked(p, limitspec.CheckAnchor) },
	},
	{
		"concurrent", false, "Requests that may be under way at once, instead of rate and capacity. Each holds a permit until it ends.",
		schema{"type": "integer", "minimum": 1, "maximum": int64(domain.MaxConcurrent)},
		func(r *reader, p place, into *writtenLimit) {
			into.Concurrent, _ = r.integer(p, 1, domain.MaxConcurrent)
		},
	},
	{
		"lease", false, "Of concurrent: how long a permit is valid if it is neither renewed nor released, 1s to 24h; without it, 60s.",
		durationSchema,
		func(r *reader, p place, into *writtenLimit) { into.Lease = r.checked(p, limitspec.CheckLease) },
	},
	{
		"cost", false, "Tokens that a request costs here, whatever it costs elsewhere; concurrent has none, a request always takes one permit.",
		schema{"type": "integer", "minimum": 1, "maximum": int64(domain.MaxCost)},
		func(r *reader, p place, into *writtenLimit) { into.Cost, _ = r.integer(p, 1, domain.MaxCost) },
	},
}

// limitFields are the fields of a policy's limits.
var limitFields = append(slices.Clip(overrideLimitFields), field[writtenLimit]{
	"key", false, "Key of this limit, if it is not the policy's.", keySchema,
	func(r *reader, p place, into *writtenLimit) { into.key, into.keyAt = r.key(p), p },
})

// limit reads one limit, by the table of its fields. It reports false if there was an error in one of them.
func (r *reader) limit(p place, table []field[writtenLimit]) (written writtenLimit, right bool) {
	given, right := object(r, p, table, &written)
	written.Name = cmp.Or(written.Name, r.policyName)
	written.at, written.given = p, given
	return written, right
}

// refuseLimit reports what is wrong with a limit. A field that it does not have itself is reported at the limit's place.
func (r *reader) refuseLimit(w *writtenLimit, err error) {
	for _, wrong := range domain.FieldErrors(err) {
		at, isGiven := w.given[wrong.Field]
		if !isGiven {
			at = w.at
			at.field = joined(at.field, wrong.Field)
		}
		reason := wrong.Reason
		if !isGiven && wrong.Value != "" {
			reason += "; it is taken over from the limit that is overridden"
		}
		r.bad(at, wrong.Value, reason)
	}
}

func readLimits(r *reader, p place, into *policy.Policy) {
	if list, ok := p.node.(*ast.SequenceNode); ok && (len(list.Values) == 0 || len(list.Values) > policy.MaxLimits) {
		r.bad(p, strconv.Itoa(len(list.Values)), "there must be from 1 to "+strconv.Itoa(policy.MaxLimits)+" limits")
	}
	lines := map[string]int{}
	r.list(p, "limits", "", func(item place) {
		if uses(item.node) {
			r.use(item, into, lines)
			return
		}
		written, right := r.limit(item, limitFields)
		at := written.nameAt()
		if line, twice := lines[written.Name]; twice {
			reason := "there is a limit of this name on line " + strconv.Itoa(line)
			if _, named := written.given["name"]; !named {
				reason += ": a limit without a name has its policy's, so give it one"
			}
			r.bad(at, shown(written.Name), reason)
			return
		}
		lines[written.Name] = at.at.Line
		if !right {
			return
		}
		limit, err := written.Limit()
		if err != nil {
			r.refuseLimit(&written, err)
			return
		}
		r.specs[written.Name] = written.Spec
		into.Limits = append(into.Limits, limit)
		if written.key != nil {
			if into.LimitKeys == nil {
				into.LimitKeys = map[string]clientkey.Key{}
			}
			into.LimitKeys[written.Name] = written.key
			r.limitKeys = append(r.limitKeys, namedPlace{written.Name, written.keyAt})
		}
	})
}

// overrideFields are the fields of an override of a policy, which has either keys or when. An override of a shared limit has no when.
var (
	overrideFields       = []field[policy.Override]{keysField(false), whenField, overrideLimitsField}
	sharedOverrideFields = []field[policy.Override]{keysField(true), overrideLimitsField}
)

func keysField(required bool) field[policy.Override] {
	return field[policy.Override]{
		"keys", required, "Patterns of the own key of the policy, or of the shared limit: a text, in which one * may stand for any text, or a network, where it is an address.",
		patternsSchema(1),
		func(r *reader, p place, into *policy.Override) {
			into.Keys = r.patternsOf(p, "must have at least one pattern")
		},
	}
}

var whenField = field[policy.Override]{
	"when", false, "In place of keys: conditions that must all fit, header:NAME, claim:NAME or ip, each with the values that fit. Headers are believed from trusted proxies only.",
	conditionsSchema(whenPattern),
	func(r *reader, p place, into *policy.Override) {
		into.When = r.conditions(p, parseWhen)
	},
}

var overrideLimitsField = field[policy.Override]{
	"limits", true, "By name; what is not said about a limit stays, and so do the policy's other limits.",
	listOf(limitSchema(overrideLimitFields, false), 1, policy.MaxLimits), readOverrideLimits,
}

// overrideSchema is the schema of an override of a policy.
func overrideSchema() schema {
	override := objectOf(overrideFields)
	override["oneOf"] = []schema{having("keys"), having("when")}
	return override
}

// readOverrideLimits leaves the limits for overrideLimits, since the policy's limits may follow the overrides in the file.
func readOverrideLimits(r *reader, p place, _ *policy.Override) {
	r.list(p, "limits", "must have at least one limit", func(item place) {
		if written, right := r.limit(item, overrideLimitFields); right {
			last := len(r.overrides) - 1
			r.overrides[last] = append(r.overrides[last], written)
		}
	})
}

func readOverrides(r *reader, p place, into *policy.Policy) {
	r.overridesBy(p, overrideFields, into, func(item place, given map[string]place) {
		keys, hasKeys := given["keys"]
		when, hasWhen := given["when"]
		switch {
		case hasKeys && hasWhen && keys.at.Offset > when.at.Offset:
			r.bad(keys, "", policy.KeysOrWhen+", and there is when")
		case hasKeys && hasWhen:
			r.bad(when, "", policy.KeysOrWhen+", and there are keys")
		case !hasKeys && !hasWhen && fieldsOf(item.node) == len(given): // else a name was misspelt, perhaps that of keys
			r.bad(item, "", policy.KeysOrWhen)
		}
	})
}

// fieldsOf returns the number of fields of a mapping; -1 for anything else.
func fieldsOf(node ast.Node) int {
	switch n := node.(type) {
	case *ast.MappingNode:
		return len(n.Values)
	case *ast.MappingValueNode:
		return 1
	}
	return -1
}

// overridesBy reads overrides by the table of their fields. whole is called for each, with the places of its fields.
func (r *reader) overridesBy(p place, table []field[policy.Override], into *policy.Policy, whole func(place, map[string]place)) {
	r.list(p, "overrides", "", func(item place) {
		o := policy.Override{Line: item.at.Line}
		r.overrides = append(r.overrides, nil)
		given, _ := object(r, item, table, &o)
		if whole != nil {
			whole(item, given)
		}
		into.Overrides = append(into.Overrides, o)
	})
}

// overrideLimits makes the limits of the overrides, by those of the policy. whole says that the rest of the policy has no error,
// so that its limits are all known; unknown is what is wrong with the name of another one.
func (r *reader) overrideLimits(own *policy.Policy, whole bool, unknown string) (right bool) {
	before := len(r.errs)
	for i, limits := range r.overrides {
		for _, written := range limits {
			base, known := r.specs[written.Name]
			switch {
			case own.Shared[written.Name] != nil:
				r.bad(written.nameAt(), shown(written.Name), policy.SharedNotOverridden)
				continue
			case !known && whole:
				r.bad(written.nameAt(), shown(written.Name), unknown)
				continue
			case !known:
				continue
			}
			if own.HasOwnKey(written.Name) {
				r.bad(written.nameAt(), shown(written.Name), policy.OwnKeyNotOverridden)
				continue
			}
			limit, err := written.Override(base)
			if err != nil {
				r.refuseLimit(&written, err)
				continue
			}
			own.Overrides[i].Limits = append(own.Overrides[i].Limits, limit)
		}
	}
	return before == len(r.errs)
}
