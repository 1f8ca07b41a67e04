package policyfile_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/adapters/policyfile"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

func TestParse_readsConditions(t *testing.T) {
	set, err := policyfile.Parse([]byte(`policies:
  - name: api
    match: { path: /api, headers: { X-Beta: [1, "true"], Accept: text/html } }
    overrides:
      - when: { "header:X-Plan": [pro, team], ip: 192.0.2.0/24 }
        limits: [ { capacity: 20 } ]
      - keys: ["192.0.2.1"]
        limits: [ { capacity: 30 } ]
      - when:
          claim:https://example.com/plan: pro
          header:X-Region: eu
        limits: [ { rate: 9/s } ]
    limits: [ { rate: 5/s, capacity: 10 } ]
`), "")
	require.NoError(t, err)
	p := set.All()[0]
	header := func(name string) clientkey.Source {
		return clientkey.Source{Kind: clientkey.SourceHeader, Name: name}
	}
	assert.Equal(t, []policy.Condition{
		{Source: header("x-beta"), Values: []string{"1", "true"}}, {Source: header("accept"), Values: []string{"text/html"}},
	}, p.Match.Headers)
	require.Len(t, p.Overrides, 3)
	assert.Equal(t, policy.Override{
		When: []policy.Condition{
			{Source: header("x-plan"), Values: []string{"pro", "team"}}, {Source: clientkey.Source{}, Values: []string{"192.0.2.0/24"}},
		},
		Limits: p.Overrides[0].Limits, Line: 5,
	}, p.Overrides[0])
	assert.Equal(t, "api: 5/s, capacity 20", p.Overrides[0].Limits[0].String())
	assert.Equal(t, 7, p.Overrides[1].Line)
	assert.Equal(t, "where claim:https://example.com/plan is pro and header:x-region is eu", p.Overrides[2].Clients())
	assert.Equal(t, "for 192.0.2.1", p.Overrides[1].Clients())
}

func TestParse_reportsEveryErrorOfAnOverride(t *testing.T) {
	_, err := policyfile.Parse([]byte(`policies:
  - name: a
    limits: [ { rate: 5/s, capacity: 10 }, { name: site, key: global, rate: 5/s, capacity: 10 } ]
    overrides:
      - limits: [ { name: site, capacity: 20 }, { name: b, capacity: 20 } ]
      - { when: { "header:X-Plan": [pro, ""], "cookie:a": b }, limits: [] }
`), "")
	var errs policyfile.Errors
	require.ErrorAs(t, err, &errs)
	lines := strings.Split(errs.Error(), "\n")
	require.Len(t, lines, 5, "%s", errs)
	assert.Contains(t, lines[0], "5:9: policies[0].overrides[0]: must have either keys or when")
	assert.Contains(t, lines[1], `5:27: policies[0].overrides[0].limits[0].name: "site": has a key of its own`)
	assert.Contains(t, lines[2], `6:42: policies[0].overrides[1].when.header:X-Plan[1]: ""`)
	assert.Contains(t, lines[3], `6:47: policies[0].overrides[1].when: "cookie:a"`)
	assert.Contains(t, lines[4], "6:72: policies[0].overrides[1].limits: must have at least one limit")
}

func TestParse_aThousandConditions(t *testing.T) {
	var b strings.Builder
	b.WriteString("policies:\n- name: a\n  limits: [ { rate: 5/s, capacity: 10 } ]\n  overrides:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  - { when: { \"header:X-Plan\": plan-%d }, limits: [ { capacity: %d } ] }\n", i, i+1)
	}
	set, err := policyfile.Parse([]byte(b.String()), "")
	require.NoError(t, err)
	assert.True(t, set.All()[0].HasConditions())
	assert.Equal(t, 1004, set.All()[0].Overrides[999].Line)
}
