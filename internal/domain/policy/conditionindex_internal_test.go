package policy

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// A rule is found by a source that others are found by, too, as long as no rule has its value there: a search asks each source.
func TestConditionIndex_hasFewSources(t *testing.T) {
	byHeader := func(name string, i int) Condition {
		return Condition{Source: clientkey.Source{Kind: clientkey.SourceHeader, Name: name}, Values: []string{fmt.Sprint("value-", i)}}
	}
	byNetwork := func(i int) Condition {
		return Condition{Source: clientkey.Source{Kind: clientkey.SourceIP}, Values: []string{fmt.Sprintf("10.0.%d.0/24", i)}}
	}
	var headers, networks, shared conditionIndex
	for i := range 100 {
		headers.add(int32(i), nil, []Condition{byHeader("x-org", i), byHeader(fmt.Sprint("x-", i), i)})
		networks.add(int32(i), nil, []Condition{byNetwork(i), byHeader(fmt.Sprint("x-", i), i)})
		shared.add(int32(i), nil, []Condition{byHeader("x-plan", i/50), byHeader("x-org", i)})
	}
	assert.Len(t, headers.sources, 1)
	assert.Len(t, networks.sources, 1)
	for _, source := range shared.sources {
		for value, found := range source.values {
			assert.Equal(t, 1, found.count(), "%s: %s", source.source, value)
		}
	}
}

// What comes after a rule without anything left to compare never applies, and is not kept.
func TestConditionIndex_leavesOutWhatNeverApplies(t *testing.T) {
	var x conditionIndex
	plan := Condition{Source: clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-plan"}, Values: []string{"pro", "pro"}}
	org := Condition{Source: clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-org"}, Values: []string{"a"}}
	x.add(1, nil, []Condition{plan})
	x.add(2, []string{"GET"}, []Condition{plan})
	x.add(3, nil, []Condition{plan, org})
	assert.Equal(t, rules{plain: 1}, x.sources[0].values["pro"])
}
