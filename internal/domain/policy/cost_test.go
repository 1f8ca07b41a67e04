package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/jsonpointer"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func tokens(n domain.Tokens) *domain.Tokens { return &n }

func pointer(t *testing.T, text string) jsonpointer.Pointer {
	t.Helper()
	p, err := jsonpointer.Parse(text)
	require.NoError(t, err)
	return p
}

func TestSettled_eachEnding(t *testing.T) {
	const estimate = 1000
	usage := policy.Actual{Usage: true}
	plain := policy.Cost{Actual: usage}
	explicit := policy.Cost{Actual: usage, Missing: tokens(70), Failed: 5}
	free := policy.Cost{Actual: usage, Missing: tokens(0)}
	whole := func(status int) policy.Ending { return policy.Ending{Status: status, Whole: true} }
	reported := func(e policy.Ending, n domain.Tokens) policy.Ending {
		e.Usage, e.Tokens = policy.UsageFound, n
		return e
	}
	invalid := func(e policy.Ending) policy.Ending {
		e.Usage = policy.UsageInvalid
		return e
	}
	broken := policy.Ending{Status: 200}
	for name, c := range map[string]struct {
		cost    policy.Cost
		ending  policy.Ending
		want    domain.Tokens
		missing bool
	}{
		"whole, less than the estimate":           {plain, reported(whole(200), 12), 12, false},
		"whole, more than the estimate":           {plain, reported(whole(201), 4000), 4000, false},
		"whole, nothing used":                     {plain, reported(whole(200), 0), 0, false},
		"whole, without usage":                    {plain, whole(200), estimate, true},
		"whole, without usage, as missing says":   {explicit, whole(299), 70, true},
		"whole, without usage, which is free":     {free, whole(204), 0, true},
		"whole, with invalid usage":               {plain, invalid(whole(200)), estimate, true},
		"whole, with invalid usage, missing":      {explicit, invalid(whole(200)), 70, true},
		"failed, without usage":                   {plain, whole(500), 0, false},
		"denied by the upstream":                  {plain, whole(429), 0, false},
		"redirected":                              {plain, whole(302), 0, false},
		"failed, without usage, as failed says":   {explicit, whole(502), 5, false},
		"failed, with usage":                      {explicit, reported(whole(500), 33), 33, false},
		"failed, with invalid usage":              {explicit, invalid(whole(500)), 70, true},
		"broken off, without usage":               {explicit, broken, estimate, false},
		"broken off, with invalid usage":          {explicit, invalid(broken), estimate, false},
		"broken off, with less than the estimate": {explicit, reported(broken, 12), estimate, false},
		"broken off, with more than the estimate": {explicit, reported(broken, 1001), 1001, false},
		"broken off before the status":            {explicit, policy.Ending{}, estimate, false},
		"a failure that breaks off":               {explicit, policy.Ending{Status: 500}, estimate, false},
		"usage beyond every cost":                 {explicit, reported(whole(200), domain.MaxCost+1), 70, true},
		"usage below zero":                        {explicit, reported(whole(200), -1), 70, true},
		"the largest usage":                       {explicit, reported(whole(200), domain.MaxCost), domain.MaxCost, false},
		"broken off, with usage beyond every cost": {
			explicit, reported(broken, domain.MaxCost+1), estimate, false,
		},
	} {
		actual, missing := c.cost.Settled(estimate, c.ending)
		assert.Equal(t, c.want, actual, name)
		assert.Equal(t, c.missing, missing, name)
	}
}

func TestCost_constantIsTheLastSource(t *testing.T) {
	byHeader := policy.CostSource{Header: "x-cost"}
	for want, costs := range map[domain.Tokens][]policy.Cost{
		1:   {{}, {Header: "x-cost"}, {Estimate: []policy.CostSource{byHeader}}},
		7:   {{Fixed: 7}, {Fixed: 7, Header: "x-cost"}, {Estimate: []policy.CostSource{{Number: 7}}}},
		500: {{Estimate: []policy.CostSource{byHeader, {Pointer: pointer(t, "/max_tokens")}, {Number: 500}}}},
	} {
		for i := range costs {
			assert.Equal(t, want, costs[i].Tokens(), costs[i].String())
		}
	}
}

func TestCost_describesItself(t *testing.T) {
	inBody := policy.CostSource{Pointer: pointer(t, "/max_tokens")}
	for want, cost := range map[string]policy.Cost{
		"1":                        {},
		"header:x-cost, else 2":    {Fixed: 2, Header: "x-cost"},
		"json:/max_tokens, else 1": {Estimate: []policy.CostSource{inBody}},
		"estimate header:x-n, else json:/max_tokens, else 1000; actual usage; missing the estimate, failed 0, asks streams for usage": {
			Estimate: []policy.CostSource{{Header: "x-n"}, inBody, {Number: 1000}}, Actual: policy.Actual{Usage: true}, IncludeUsage: true,
		},
		"estimate 1; actual json:/a + json:/b; missing 5, failed 2": {
			Actual:  policy.Actual{Pointers: []jsonpointer.Pointer{pointer(t, "/a"), pointer(t, "/b")}},
			Missing: tokens(5), Failed: 2,
		},
		"estimate 1; actual header:x-tokens; missing 0, failed 0": {Actual: policy.Actual{Header: "x-tokens"}, Missing: tokens(0)},
	} {
		assert.Equal(t, want, cost.String())
	}
}

func TestCompile_refusesCosts(t *testing.T) {
	inBody := policy.CostSource{Pointer: pointer(t, "/max_tokens")}
	usage := policy.Actual{Usage: true}
	number := func(n domain.Tokens) []policy.CostSource { return []policy.CostSource{{Number: n}} }
	for want, cost := range map[string]policy.Cost{
		"cost: -1: must be from 1 to 2147483647":                         {Fixed: -1},
		`cost: "X": must be a header's name`:                             {Header: "X"},
		"cost.estimate: replaces a fixed cost and a header":              {Fixed: 1, Estimate: number(1)},
		"cost.estimate[0]: 11: must be at most 10, the capacity":         {Estimate: number(11)},
		"cost.estimate[1]: 11: must be at most 10, the capacity":         {Estimate: []policy.CostSource{inBody, {Number: 11}}},
		"cost.estimate[0]: 2147483648: must be from 1 to 2147483647":     {Estimate: number(domain.MaxCost + 1)},
		"cost.estimate[0]: -5: must be from 1 to 2147483647":             {Estimate: number(-5)},
		"cost.estimate[0]: 5: must be the last of the list":              {Estimate: []policy.CostSource{{Number: 5}, inBody}},
		"cost.estimate[0]: must be one of a number, a header and a p":    {Estimate: []policy.CostSource{{}}},
		`cost.estimate[0]: "X_Y": must be a header's name in lower case`: {Estimate: []policy.CostSource{{Header: "X_Y"}}},
		"cost.estimate[1]: must be one of a number":                      {Estimate: []policy.CostSource{inBody, {Header: "x", Pointer: inBody.Pointer}}},
		"cost.estimate: 17: there must be at most 16 sources":            {Estimate: make([]policy.CostSource, 17)},
		"cost.actual: must be one of usage, a header and pointers":       {Actual: policy.Actual{Usage: true, Header: "x"}},
		`cost.actual: "X": must be a header's name in lower case`:        {Actual: policy.Actual{Header: "X"}},
		"cost.actual: has an empty pointer":                              {Actual: policy.Actual{Pointers: make([]jsonpointer.Pointer, 1)}},
		"cost.actual: 17: there must be at most 16 pointers":             {Actual: policy.Actual{Pointers: make([]jsonpointer.Pointer, 17)}},
		"cost.missing: needs actual":                                     {Missing: tokens(0)},
		"cost.missing: -1: must be from 0 to 2147483647":                 {Actual: usage, Missing: tokens(-1)},
		"cost.failed: needs actual":                                      {Failed: 1},
		"cost.failed: 2147483648: must be from 0 to 2147483647":          {Actual: usage, Failed: domain.MaxCost + 1},
		"cost.include_usage: true: needs actual: usage":                  {Actual: policy.Actual{Header: "x"}, IncludeUsage: true},
	} {
		p := policy.Policy{Name: "a", Cost: cost, Limits: []domain.Limit{named(t, "burst", 10)}, OnStoreFailure: policy.FailOpen}
		require.ErrorContains(t, p.Compile(), want)
		assert.ErrorIs(t, p.Compile(), domain.ErrInvalidPolicy)
	}
}

func TestCompile_refusesCostsThatEnvoyCannotTell(t *testing.T) {
	for want, cost := range map[string]policy.Cost{
		"cost.actual: cannot be had under a policy for Envoy":   {Actual: policy.Actual{Usage: true}},
		"cost.estimate[0]: must be a number: Envoy sends neith": {Estimate: []policy.CostSource{{Header: "x"}}},
	} {
		p := policy.Policy{
			Name: "a", Cost: cost, Limits: []domain.Limit{named(t, "burst", 10)}, OnStoreFailure: policy.FailOpen,
			Match: policy.Match{Domain: "edge", Descriptor: []policy.DescriptorPattern{{Key: "k"}}},
		}
		require.ErrorContains(t, p.Compile(), want)
	}
}
