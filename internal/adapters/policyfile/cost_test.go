package policyfile_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func TestParse_readsCosts(t *testing.T) {
	pointer := func(text string) jsonpointer.Pointer {
		p, err := jsonpointer.Parse(text)
		require.NoError(t, err)
		return p
	}
	usage := policy.Actual{Usage: true}
	of := func(n domain.Tokens) *domain.Tokens { return &n }
	thousand := []policy.CostSource{{Number: 1000}}
	for written, want := range map[string]policy.Cost{
		"5":                                   {Fixed: 5},
		"header:X-Cost":                       {Header: "x-cost"},
		"{ estimate: 1000, actual: usage }":   {Estimate: thousand, Actual: usage},
		"{ actual: usage }":                   {Actual: usage},
		"{ estimate: header:X-Est }":          {Estimate: []policy.CostSource{{Header: "x-est"}}},
		"{ estimate: json:/input/0/a~1b }":    {Estimate: []policy.CostSource{{Pointer: pointer("/input/0/a~1b")}}},
		`{ estimate: ["json:/größe, in m"] }`: {Estimate: []policy.CostSource{{Pointer: pointer("/größe, in m")}}},
		"{ estimate: [json:/max_completion_tokens, json:/max_output_tokens, json:/max_tokens, 1000], actual: usage }": {
			Estimate: []policy.CostSource{
				{Pointer: pointer("/max_completion_tokens")}, {Pointer: pointer("/max_output_tokens")}, {Pointer: pointer("/max_tokens")}, {Number: 1000},
			},
			Actual: usage,
		},
		`{ estimate: ["header:X-Est", 1000], actual: header:X-Tokens-Used, missing: 500, failed: 0 }`: {
			Estimate: []policy.CostSource{{Header: "x-est"}, {Number: 1000}},
			Actual:   policy.Actual{Header: "x-tokens-used"}, Missing: of(500),
		},
		"{ actual: json:/usage/completion_tokens, missing: 0, failed: 7 }": {
			Actual: policy.Actual{Pointers: []jsonpointer.Pointer{pointer("/usage/completion_tokens")}}, Missing: of(0), Failed: 7,
		},
		"{ estimate: 1000, actual: { sum: [json:/a, json:/b/c] } }": {
			Estimate: thousand, Actual: policy.Actual{Pointers: []jsonpointer.Pointer{pointer("/a"), pointer("/b/c")}},
		},
		"{ estimate: 1000, actual: usage, include_usage: true }":  {Estimate: thousand, Actual: usage, IncludeUsage: true},
		"{ estimate: 1000, actual: usage, include_usage: false }": {Estimate: thousand, Actual: usage},
		"\n      estimate:\n        - json:/n\n        - header:X-N\n        - 1000\n      actual:\n        sum:\n        - json:/a": {
			Estimate: []policy.CostSource{{Pointer: pointer("/n")}, {Header: "x-n"}, {Number: 1000}},
			Actual:   policy.Actual{Pointers: []jsonpointer.Pointer{pointer("/a")}},
		},
	} {
		set, err := policyfile.Parse([]byte("policies:\n  - name: llm\n    limits: [ { rate: 100/s, capacity: 1000 } ]\n    cost: "+written+"\n"), "")
		require.NoError(t, err, written)
		assert.Equal(t, want, set.All()[0].Cost, written)
	}
}
