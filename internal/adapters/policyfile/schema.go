package policyfile

import (
	"maps"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// schema is a JSON Schema, or a part of one.
type schema map[string]any

const (
	namePattern   = `[a-z0-9][a-z0-9_-]{0,62}`
	headerPattern = `^[A-Za-z0-9-]+$`
	whenPattern   = `^(ip|header:[A-Za-z0-9-]+|claim:[A-Za-z0-9._~\[\]:/@-]+)$`
	sourcePattern = `^(ip|ip/48|global|header:[A-Za-z0-9-]+|(cookie|query):[A-Za-z0-9._~\[\]-]+|claim:[A-Za-z0-9._~\[\]:/@-]+)$`
)

var (
	nameSchema     = textOf("^" + namePattern + "$")
	sourceSchema   = textOf(sourcePattern)
	keyPart        = anyOf(sourceSchema, objectOf(sourceFields))
	keySchema      = schema{"anyOf": []schema{sourceSchema, objectOf(sourceFields), listOf(keyPart, 1, clientkey.MaxParts)}}
	durationSchema = textOf(`^([0-9.]+(h|m|[mnuµμ]?s))+$`)
	refundSchema   = listOf(schema{"anyOf": []schema{
		{"type": "integer", "minimum": 100, "maximum": 599, "not": schema{"enum": []int{401, 403, 429}}}, oneOf("1xx", "2xx", "3xx", "5xx"),
	}}, 0, 500)
)

func objectOf[T any](table []field[T]) schema {
	members, required := schema{}, []string{}
	for _, f := range table {
		member := schema{"description": f.about}
		maps.Copy(member, f.schema)
		members[f.name] = member
		if f.required {
			required = append(required, f.name)
		}
	}
	return schema{"type": "object", "additionalProperties": false, "properties": members, "required": required}
}

// limitSchema is the schema of one limit. whole says that it must have everything that its kind needs.
func limitSchema(table []field[writtenLimit], whole bool) schema {
	limit := objectOf(table)
	bucket, permits := anyOf(having("rate"), having("capacity")), anyOf(having("concurrent"), having("lease"))
	quota := anyOf(having("quota"), having("zone"), having("anchor"))
	limit["not"] = anyOf(allOf(bucket, quota), allOf(bucket, permits), allOf(quota, permits), allOf(permits, having("cost")))
	if whole {
		maps.Copy(limit, anyOf(having("rate", "capacity"), having("quota"), having("concurrent")))
	}
	return limit
}

// having is the schema of an object that has these fields.
func having(fields ...string) schema { return schema{"required": fields} }

func anyOf(alternatives ...schema) schema { return schema{"anyOf": alternatives} }

func allOf(all ...schema) schema { return schema{"allOf": all} }

func listOf(items schema, least, most int) schema {
	list := schema{"type": "array", "items": items, "maxItems": most}
	if least > 0 {
		list["minItems"] = least
	}
	return list
}

// textOf is the schema of a text that matches pattern, if there is one.
func textOf(pattern string) schema {
	if pattern == "" {
		return schema{"type": "string"}
	}
	return schema{"type": "string", "pattern": pattern}
}

// conditionsSchema is the schema of conditions, whose names match pattern.
func conditionsSchema(pattern string) schema {
	value := schema{"anyOf": []schema{{"type": "string", "minLength": 1, "maxLength": 256}, {"type": "integer"}}}
	values := anyOf(value, listOf(value, 1, policy.MaxConditionValues))
	return schema{
		"type": "object", "minProperties": 1, "maxProperties": policy.MaxConditions, "additionalProperties": false,
		"patternProperties": schema{pattern: values},
	}
}

func oneOf(words ...string) schema { return schema{"enum": words} }

func patternsSchema(least int) schema {
	pattern := schema{"anyOf": []schema{{"type": "string", "minLength": 1, "maxLength": 256}, {"type": "integer"}}}
	return listOf(pattern, least, policy.MaxOverrides)
}
