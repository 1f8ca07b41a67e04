package policyfile

import "encoding/json"

// Schema returns the JSON Schema of the format, built from the tables that read it.
func Schema() []byte {
	whole := objectOf(documentFields)
	whole["$schema"] = "http://json-schema.org/draft-07/schema#"
	whole["title"] = "Velocity's policies"
	text, err := json.MarshalIndent(whole, "", "  ")
	if err != nil {
		panic(err) // cannot happen: every value has a JSON form
	}
	return append(text, '\n')
}
