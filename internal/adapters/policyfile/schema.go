package policyfile

import (
	"encoding/json"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// schema is a JSON Schema, or a part of one.
type schema map[string]any

const (
	namePattern   = `[a-z0-9][a-z0-9_-]{0,62}`
	sourcePattern = `^(ip|ip/48|global|header:[A-Za-z0-9-]+|(cookie|query):[A-Za-z0-9._~\[\]-]+)$`
)

var (
	nameSchema   = textOf("^" + namePattern + "$")
	sourceSchema = textOf(sourcePattern)
	keySchema    = schema{"anyOf": []schema{sourceSchema, listOf(sourceSchema, 1, domain.MaxKeyParts)}}
	costSchema   = schema{"anyOf": []schema{
		{"type": "integer", "minimum": 1, "maximum": int64(domain.MaxCost)}, textOf(`^header:[A-Za-z0-9-]+$`),
	}}
	refundSchema = listOf(schema{"anyOf": []schema{
		{"type": "integer", "minimum": 100, "maximum": 599, "not": schema{"enum": []int{401, 403, 429}}}, oneOf("1xx", "2xx", "3xx", "5xx"),
	}}, 0, 500)
)

// Schema returns the JSON Schema of the format, made of the same tables that read it.
func Schema() []byte {
	whole := objectOf(documentFields)
	whole["$schema"] = "http://json-schema.org/draft-07/schema#"
	whole["title"] = "Velocity's policies"
	text, err := json.MarshalIndent(whole, "", "  ")
	if err != nil {
		panic(err) // there is nothing in it that JSON does not have
	}
	return append(text, '\n')
}

func objectOf[T any](table []field[T]) schema {
	members, required := schema{}, []string{}
	for _, f := range table {
		member := schema{"description": f.about}
		for name, value := range f.schema {
			member[name] = value
		}
		members[f.name] = member
		if f.required {
			required = append(required, f.name)
		}
	}
	return schema{"type": "object", "additionalProperties": false, "properties": members, "required": required}
}

func listOf(items schema, least, most int) schema {
	list := schema{"type": "array", "items": items, "maxItems": most}
	if least > 0 {
		list["minItems"] = least
	}
	return list
}

// textOf is a text; a number is one, too, where no pattern forbids it.
func textOf(pattern string) schema {
	if pattern == "" {
		return schema{"type": "string"}
	}
	return schema{"type": "string", "pattern": pattern}
}

func oneOf(words ...string) schema { return schema{"enum": words} }

func patternsSchema(least int) schema {
	pattern := schema{"anyOf": []schema{{"type": "string", "minLength": 1, "maxLength": 256}, {"type": "integer"}}}
	return listOf(pattern, least, domain.MaxOverrides)
}
