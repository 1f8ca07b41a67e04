package policyfile

import (
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

const (
	costHeaderPattern = `^header:[A-Za-z0-9-]+$`
	pointerPattern    = `^json:(/([^~/]|~[01])*)+$`
)

var (
	estimateSource = anyOf(tokensSchema(1), textOf(costHeaderPattern), textOf(pointerPattern))
	estimateSchema = anyOf(tokensSchema(1), textOf(costHeaderPattern), textOf(pointerPattern), listOf(estimateSource, 1, policy.MaxCostSources))
	actualSchema   = anyOf(oneOf("usage"), textOf(costHeaderPattern), textOf(pointerPattern), objectOf(sumFields))
	costSchema     = anyOf(tokensSchema(1), textOf(costHeaderPattern), costObject())
)

func tokensSchema(least int) schema {
	return schema{"type": "integer", "minimum": least, "maximum": int64(domain.MaxCost)}
}

// costObject is the schema of a cost that is a mapping.
func costObject() schema {
	object := objectOf(costFields)
	object["anyOf"] = []schema{having("estimate"), having("actual")}
	object["dependencies"] = map[string][]string{"missing": {"actual"}, "failed": {"actual"}}
	return object
}

var costFields = []field[policy.Cost]{
	{
		"estimate", false,
		"Tokens that are taken before the request: a number, header:NAME (from trusted proxies only), json:/POINTER into the request's body, " +
			"or a list of these, of which the first that is there counts; where none is there: 1.",
		estimateSchema, readEstimate,
	},
	{
		"actual", false,
		"Where the answer reports what the request has cost: usage (of the APIs of OpenAI, Anthropic and Gemini), header:NAME, json:/POINTER, or a " +
			"sum of pointers. The difference to the estimate is charged or refunded.",
		actualSchema, func(r *reader, p place, into *policy.Cost) { into.Actual = r.actual(p) },
	},
	{
		"missing", false, "Cost of a request whose answer is whole and successful, and does not report it; without it, the estimate.", tokensSchema(0),
		func(r *reader, p place, into *policy.Cost) {
			if n, right := r.integer(p, 0, domain.MaxCost); right {
				into.Missing = &n
			}
		},
	},
	{
		"failed", false, "Cost of a request whose answer is not successful, and does not report it; without it, 0.", tokensSchema(0),
		func(r *reader, p place, into *policy.Cost) { into.Failed, _ = r.integer(p, 0, domain.MaxCost) },
	},
	{
		"include_usage", false, "true: streaming requests get stream_options.include_usage, without which OpenAI's streams report no usage.",
		schema{"type": "boolean"},
		func(r *reader, p place, into *policy.Cost) { into.IncludeUsage = r.truth(p) },
	},
}

var sumFields = []field[policy.Actual]{{
	"sum", true, "Pointers into the answer, whose numbers are added up.", listOf(textOf(pointerPattern), 1, policy.MaxCostSources),
	func(r *reader, p place, into *policy.Actual) {
		r.list(p, "pointers", "must have at least one pointer", func(item place) {
			const rule = "must be json:/POINTER"
			into.Pointers = append(into.Pointers, costText(r, item, rule, func(s string) (jsonpointer.Pointer, error) {
				return parsePointer(s, rule)
			}))
		})
	},
}}

func (r *reader) cost(p place) policy.Cost {
	switch p.node.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		fixed, _ := r.integer(p, 1, domain.MaxCost)
		return policy.Cost{Fixed: fixed}
	case *ast.MappingNode, *ast.MappingValueNode:
		return r.costByParts(p)
	}
	return policy.Cost{Header: parsed(r, p, func(s string) (string, error) {
		return parseCostHeader(s, "must be a whole number or header:NAME")
	})}
}

// costByParts reads a cost that is a mapping. It records the places of its members.
func (r *reader) costByParts(p place) (cost policy.Cost) {
	given, _ := object(r, p, costFields, &cost)
	_, hasEstimate := given["estimate"]
	_, hasActual := given["actual"]
	if !hasEstimate && !hasActual && fieldsOf(p.node) == len(given) { // else a name was misspelt, perhaps that of one of them
		r.bad(p, "", "must have estimate or actual")
	}
	for name, at := range given {
		r.costParts = append(r.costParts, namedPlace{"cost." + name, at})
		if (name == "missing" || name == "failed") && hasEstimate && !hasActual {
			r.bad(at, "", policy.CostNeedsActual)
		}
	}
	return cost
}

func readEstimate(r *reader, p place, into *policy.Cost) {
	add := func(item place) {
		r.costParts = append(r.costParts, namedPlace{"cost.estimate[" + strconv.Itoa(len(into.Estimate)) + "]", item})
		into.Estimate = append(into.Estimate, r.costSource(item))
	}
	if _, isList := p.node.(*ast.SequenceNode); isList {
		r.list(p, "sources", "must have at least one source", add)
	} else {
		add(p)
	}
}

func (r *reader) costSource(p place) (source policy.CostSource) {
	switch p.node.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		source.Number, _ = r.integer(p, 1, domain.MaxCost)
		return source
	}
	const rule = "must be a whole number, header:NAME or json:/POINTER"
	return costText(r, p, rule, func(s string) (source policy.CostSource, err error) {
		if strings.HasPrefix(s, "json:") {
			source.Pointer, err = parsePointer(s, rule)
		} else {
			source.Header, err = parseCostHeader(s, rule)
		}
		return source, err
	})
}

func (r *reader) actual(p place) (actual policy.Actual) {
	switch p.node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		object(r, p, sumFields, &actual)
		return actual
	}
	const rule = "must be usage, header:NAME, json:/POINTER, or a mapping with sum"
	return costText(r, p, rule, func(s string) (actual policy.Actual, err error) {
		switch {
		case s == "usage":
			actual.Usage = true
		case strings.HasPrefix(s, "json:"):
			var pointer jsonpointer.Pointer
			pointer, err = parsePointer(s, rule)
			actual.Pointers = []jsonpointer.Pointer{pointer}
		default:
			actual.Header, err = parseCostHeader(s, rule)
		}
		return actual, err
	})
}

// costText is parsed, for a text that is no number. rule is what is wrong with anything else.
func costText[V any](r *reader, p place, rule string, parse func(string) (V, error)) (value V) {
	if _, isText := p.node.(*ast.StringNode); !isText {
		r.bad(p, describe(p.node), rule)
		return value
	}
	return parsed(r, p, parse)
}

// parseCostHeader reads header:NAME, and returns the name in lower case. rule is what is wrong with other texts.
func parseCostHeader(s, rule string) (string, error) {
	source, err := clientkey.ParseSource(s)
	if err != nil || source.Kind != clientkey.SourceHeader {
		return "", wrongValue(s, rule)
	}
	return source.Name, nil
}

// parsePointer reads json:/POINTER. rule is what is wrong with texts that do not begin so.
func parsePointer(s, rule string) (jsonpointer.Pointer, error) {
	text, isPointer := strings.CutPrefix(s, "json:")
	if !isPointer {
		return jsonpointer.Pointer{}, wrongValue(s, rule)
	}
	pointer, err := jsonpointer.Parse(text)
	if err != nil {
		return pointer, wrongValue(s, err.Error())
	}
	return pointer, nil
}
