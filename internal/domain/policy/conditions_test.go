package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

var (
	byPlan   = clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-plan"}
	byRegion = clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-region"}
	byScope  = clientkey.Source{Kind: clientkey.SourceClaim, Name: "scope"}
)

// facts are policy.Facts of literals. A value that starts with ! is an error.
type facts struct {
	values   map[clientkey.Source]string
	elements []string // of each claim without a value
	address  string
	asked    int
}

func (f *facts) Value(source clientkey.Source) (string, error) {
	f.asked++
	value := f.values[source]
	if reason, fails := strings.CutPrefix(value, "!"); fails {
		return "", errors.New(reason)
	}
	return value, nil
}

func (f *facts) Elements(source clientkey.Source) []string {
	if source.Kind != clientkey.SourceClaim {
		return nil
	}
	return f.elements
}

func (f *facts) Address() netip.Addr {
	address, _ := netip.ParseAddr(f.address)
	return address
}

func when(conditions ...policy.Condition) policy.Override {
	return policy.Override{When: conditions}
}

func is(source clientkey.Source, values ...string) policy.Condition {
	return policy.Condition{Source: source, Values: values}
}

// conditional compiles a policy whose overrides set capacities of 100, 101 and so on.
func conditional(t require.TestingT, p policy.Policy) *policy.Policy {
	for i := range p.Overrides {
		p.Overrides[i].Limits = []domain.Limit{named(t, "burst", domain.Tokens(100+i))}
	}
	return compiledPolicy(t, p)
}

func TestRulesForRequest_theFirstOverrideThatFitsWins(t *testing.T) {
	p := conditional(t, policy.Policy{
		Key: clientkey.Key{byTenant},
		Overrides: []policy.Override{
			when(is(byPlan, "pro", "team"), is(byRegion, "eu")),                 // 0
			{Keys: []string{"acme"}},                                            // 1
			when(is(byPlan, "pro")),                                             // 2
			when(is(byScope, "admin")),                                          // 3
			when(is(byIP, "192.0.2.0/24", "2001:db8::1")),                       // 4
			when(is(byIP, "192.0.0.0/16"), is(byRegion, "us")),                  // 5
			{Keys: []string{"*"}},                                               // 6
			when(is(clientkey.Source{Kind: clientkey.SourceIP}, "203.0.113.9")), // 7: never, after *
		},
		Block: []string{"banned"}, Exempt: []string{"free-*"},
	})
	of := func(pairs ...string) *facts {
		f := &facts{values: map[clientkey.Source]string{}}
		for i := 0; i < len(pairs); i += 2 {
			switch pairs[i] {
			case "address":
				f.address = pairs[i+1]
			case "scopes":
				f.elements = strings.Fields(pairs[i+1])
			default:
				source, err := clientkey.ParseSource(pairs[i])
				require.NoError(t, err)
				f.values[source] = pairs[i+1]
			}
		}
		return f
	}
	for name, c := range map[string]struct {
		client string
		facts  *facts
		want   int
	}{
		"both conditions":            {"a", of("header:x-plan", "team", "header:x-region", "eu"), 0},
		"one of two":                 {"a", of("header:x-plan", "team"), 6},
		"the keys before":            {"acme", of("header:x-plan", "pro"), 1},
		"conditions before the keys": {"acme", of("header:x-plan", "pro", "header:x-region", "eu"), 0},
		"a value of its own case":    {"a", of("header:x-plan", "Pro"), 6},
		"a value alone":              {"a", of("header:x-plan", "pro"), 2},
		"a part of a value":          {"a", of("header:x-plan", "pr"), 6},
		"a scalar claim":             {"a", of("claim:scope", "admin"), 3},
		"an element of a claim":      {"a", of("scopes", "read admin"), 3},
		"no element":                 {"a", of("scopes", "read write"), 6},
		"a network":                  {"a", of("address", "192.0.2.77"), 4},
		"a mapped address":           {"a", of("address", "::ffff:192.0.2.77"), 4},
		"one address":                {"a", of("address", "2001:db8::1"), 4},
		"its neighbour":              {"a", of("address", "2001:db8::2"), 6},
		"a zone":                     {"a", of("address", "2001:db8::1%eth0"), 4},
		"a network and a header":     {"a", of("address", "192.0.9.1", "header:x-region", "us"), 5},
		"the network alone":          {"a", of("address", "192.0.9.1"), 6},
		"after *":                    {"a", of("address", "203.0.113.9"), 6},
		"nothing":                    {"a", of(), 6},
	} {
		rules, err := p.RulesForRequest(c.client, false, c.facts)
		require.NoError(t, err, name)
		assert.Equal(t, c.want, rules.Override, name)
		assert.Equal(t, domain.Tokens(100+c.want), rules.Groups[0].Limits[0].Capacity(), name)
	}
	pro := of("header:x-plan", "pro", "header:x-region", "eu")
	rules, err := p.RulesForRequest("banned", false, pro)
	require.NoError(t, err)
	assert.True(t, rules.Blocked)
	rules, err = p.RulesForRequest("free-1", false, pro)
	require.NoError(t, err)
	assert.True(t, rules.Exempt)
	assert.Equal(t, 1, p.RulesFor("acme", false).Override, "without a request no condition fits")
	assert.True(t, p.HasConditions())
	assert.False(t, overridesOf(t, 4).HasConditions())
}

func TestRulesForRequest_anErrorCountsWhereTheRulesDependOnIt(t *testing.T) {
	p := conditional(t, policy.Policy{Key: clientkey.Key{byTenant}, Block: []string{"banned"}, Overrides: []policy.Override{
		{Keys: []string{"first"}}, when(is(byPlan, "pro")), {Keys: []string{"later"}}, when(is(byRegion, "eu")),
	}})
	twice := &facts{values: map[clientkey.Source]string{byPlan: "!x-plan was sent twice"}}
	for _, client := range []string{"later", "other"} {
		_, err := p.RulesForRequest(client, false, twice)
		require.EqualError(t, err, "x-plan was sent twice", client)
	}
	for _, client := range []string{"first", "banned"} {
		_, err := p.RulesForRequest(client, false, twice)
		require.NoError(t, err, client)
	}
	region := &facts{values: map[clientkey.Source]string{byRegion: "!x-region was sent twice", byPlan: "pro"}}
	rules, err := p.RulesForRequest("other", false, region)
	require.NoError(t, err, "an override before those with the region fits")
	assert.Equal(t, 1, rules.Override)
}

// The index finds what comparing every override in turn would find.
func TestRulesForRequest_agreesWithAWalkOverAllConditions(t *testing.T) {
	pools := map[clientkey.Source][]string{
		byPlan: {"free", "pro", "team"}, byRegion: {"eu", "us"}, byScope: {"read", "write", "admin"},
		byIP: {"192.0.2.0/24", "192.0.0.0/16", "192.0.2.7", "2001:db8::/48", "2001:db8::1"},
	}
	sources := []clientkey.Source{byPlan, byRegion, byScope, byIP}
	rapid.Check(t, func(t *rapid.T) {
		var overrides []policy.Override
		for range rapid.IntRange(1, 20).Draw(t, "overrides") {
			var o policy.Override
			for _, source := range rapid.Permutation(sources).Draw(t, "sources")[:rapid.IntRange(1, 3).Draw(t, "conditions")] {
				o.When = append(o.When, is(source, rapid.SliceOfNDistinct(rapid.SampledFrom(pools[source]), 1, 2, rapid.ID).Draw(t, "values")...))
			}
			overrides = append(overrides, o)
		}
		p := conditional(t, policy.Policy{Overrides: overrides})
		for range 20 {
			f := facts{values: map[clientkey.Source]string{}, elements: rapid.SliceOfN(rapid.SampledFrom(pools[byScope]), 0, 2).Draw(t, "elements")}
			for _, source := range sources[:3] {
				f.values[source] = rapid.SampledFrom(append(pools[source], "", "", "other")).Draw(t, source.String())
			}
			f.address = rapid.SampledFrom([]string{"", "192.0.2.7", "192.0.2.8", "192.0.9.1", "10.0.0.1", "2001:db8::1", "2001:db8::2"}).Draw(t, "address")
			want := slices.IndexFunc(p.Overrides, func(o policy.Override) bool {
				return !slices.ContainsFunc(o.When, func(c policy.Condition) bool { return !fitsPlainly(c, &f) })
			})
			rules, err := p.RulesForRequest("", false, &f)
			require.NoError(t, err)
			require.Equal(t, want, rules.Override, "%+v under %+v", f, p.Overrides)
			if want >= 0 {
				for _, c := range p.Overrides[want].When {
					_, fits, err := c.Fits(&f)
					require.NoError(t, err)
					require.True(t, fits)
				}
			}
		}
	})
}

func fitsPlainly(c policy.Condition, f *facts) bool {
	value := f.values[c.Source]
	return slices.ContainsFunc(c.Values, func(allowed string) bool {
		if c.Source != byIP {
			return value == allowed || value == "" && c.Source == byScope && slices.Contains(f.elements, allowed)
		}
		network, err := netip.ParsePrefix(allowed)
		if err != nil {
			return f.address == allowed
		}
		return network.Contains(f.Address())
	})
}

// plans is a policy of n overrides, each for one plan, or for one plan in one of ten regions.
func plans(t require.TestingT, n int, regions bool) *policy.Policy {
	var p policy.Policy
	for i := range n {
		o := when(is(byPlan, fmt.Sprintf("plan-%d", i)))
		if regions {
			o.When = append([]policy.Condition{is(byRegion, fmt.Sprintf("region-%d", i%10))}, o.When...)
		}
		p.Overrides = append(p.Overrides, o)
	}
	return conditional(t, p)
}

func TestRulesForRequest_asksEachSourceOnceWhateverTheNumberOfConditions(t *testing.T) {
	for _, n := range []int{1, 1000} {
		p := plans(t, n, false)
		f := &facts{values: map[clientkey.Source]string{byPlan: fmt.Sprintf("plan-%d", n-1)}}
		rules, err := p.RulesForRequest("", false, f)
		require.NoError(t, err)
		assert.Equal(t, n-1, rules.Override)
		assert.Equal(t, 1, f.asked)
	}
	p := plans(t, 1000, true)
	f := &facts{values: map[clientkey.Source]string{byPlan: "plan-998", byRegion: "region-8"}}
	rules, err := p.RulesForRequest("", false, f)
	require.NoError(t, err)
	assert.Equal(t, 998, rules.Override)
	assert.LessOrEqual(t, f.asked, 12, "the plan, and the region of the overrides that have this plan")
}

// quickFacts cost next to nothing, so that a benchmark measures the index.
type quickFacts struct{ facts }

func (*quickFacts) Value(source clientkey.Source) (string, error) {
	if source.Name == "x-plan" {
		return "plan-9", nil
	}
	return "region-9", nil
}

func BenchmarkRulesForRequest(b *testing.B) {
	f := new(quickFacts)
	for name, p := range map[string]*policy.Policy{
		"no conditions": compiledPolicy(b, policy.Policy{}), "10": plans(b, 10, false), "1000": plans(b, 1000, false), "1000 pairs": plans(b, 1000, true),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = p.RulesForRequest("client-9", false, f)
			}
		})
	}
}

func TestValidate_refusesConditions(t *testing.T) {
	pro := is(byPlan, "pro")
	many := make([]policy.Condition, policy.MaxConditions+1)
	for i := range many {
		many[i] = is(clientkey.Source{Kind: clientkey.SourceHeader, Name: fmt.Sprintf("x-%d", i)}, "a")
	}
	envoy := policy.Match{Domain: "edge", Descriptor: descriptor(t, "a")}
	own := policy.Policy{Limits: []domain.Limit{named(t, "burst", 1), named(t, "site", 1)}, LimitKeys: map[string]clientkey.Key{"site": {byTenant}}}
	for name, c := range map[string]struct {
		policy   policy.Policy
		override policy.Override
		want     string
	}{
		"keys, too":              {policy.Policy{}, policy.Override{Keys: []string{"a"}, When: []policy.Condition{pro}}, `overrides: 0: must have either keys or when`},
		"neither":                {policy.Policy{}, policy.Override{}, `overrides: 0: must have either keys or when`},
		"a cookie":               {policy.Policy{}, when(is(clientkey.Source{Kind: clientkey.SourceCookie, Name: "plan"}, "pro")), `"cookie:plan": must be header:NAME, of letters`},
		"a site of addresses":    {policy.Policy{}, when(is(clientkey.Source{Kind: clientkey.SourceIP48}, "192.0.2.1")), `"ip/48": must be header:NAME`},
		"a source twice":         {policy.Policy{}, when(pro, is(byRegion, "eu"), pro), `"header:x-plan": is repeated`},
		"no value":               {policy.Policy{}, when(is(byPlan)), `"header:x-plan": must have from 1 to 10000 values`},
		"an empty value":         {policy.Policy{}, when(is(byPlan, "")), `"": must have from 1 to 256 bytes`},
		"a pattern":              {policy.Policy{}, when(is(byPlan, "pro-*")), `"pro-*": must be a whole value`},
		"a space":                {policy.Policy{}, when(is(byPlan, "pro ")), `has a space at its start or end`},
		"no address":             {policy.Policy{}, when(is(byIP, "office")), `"office": must be an address, or a network`},
		"a zone":                 {policy.Policy{}, when(is(byIP, "fe80::1%eth0")), `must be an address, or a network`},
		"bits beyond the length": {policy.Policy{}, when(is(byIP, "192.0.2.1/24")), `192.0.2.0/24 is the network`},
		"mapped":                 {policy.Policy{}, when(is(byIP, "::ffff:192.0.2.1")), `must be written as IPv4`},
		"too many":               {policy.Policy{}, when(many...), `overrides: 17: there must be at most 16 conditions`},
		"under Envoy":            {policy.Policy{Match: envoy}, when(pro), `"header:x-plan": a request of Envoy has a descriptor, and neither headers`},
		"another kind, global": {
			policy.Policy{Key: clientkey.Key{{Kind: clientkey.SourceGlobal}}},
			policy.Override{When: []policy.Condition{pro}, Limits: []domain.Limit{concurrent(t, "burst")}},
			`"header:x-plan": under the key global all requests count`,
		},
		"under global":           {policy.Policy{Key: clientkey.Key{{Kind: clientkey.SourceGlobal}}}, when(is(byIP, "192.0.2.1"), pro), `"ip": under the key global all requests count`},
		"a limit with a key":     {own, policy.Override{Keys: []string{"a"}, Limits: own.Limits[1:]}, `overrides: "site": has a key of its own`},
		"the same by conditions": {own, policy.Override{When: []policy.Condition{pro}, Limits: own.Limits[1:]}, `overrides: "site": has a key of its own`},
		"a cost above":           {policy.Policy{Cost: policy.Cost{Fixed: 2}, Limits: []domain.Limit{named(t, "burst", 2)}}, when(is(byPlan, "a", "b", "c", "d", "e")), `the capacity of the limit burst where header:x-plan is a or b or c or 2 more`},
	} {
		p := c.policy
		p.Name, p.OnStoreFailure = "a", policy.FailOpen
		if p.Limits == nil {
			p.Limits = []domain.Limit{named(t, "burst", 1)}
		}
		if c.override.Limits == nil {
			c.override.Limits = []domain.Limit{named(t, "burst", 1)}
		}
		p.Overrides = []policy.Override{c.override}
		assert.ErrorContains(t, p.Validate(), c.want, name)
	}
	_, err := policy.NewShared(named(t, "tenant", 1), nil, policy.Override{When: []policy.Condition{pro}, Limits: []domain.Limit{named(t, "tenant", 2)}})
	require.ErrorContains(t, err, "overrides: must have keys, and no when")
	own.LimitKeys["site"] = clientkey.Key{byIP} // the policy's, said again
	own.Overrides = []policy.Override{{When: []policy.Condition{pro}, Limits: own.Limits[1:]}}
	compiledPolicy(t, own)
	compiledPolicy(t, policy.Policy{ // permits are counted, and a smaller limit takes none away
		Key: clientkey.Key{{Kind: clientkey.SourceGlobal}}, Limits: []domain.Limit{named(t, "burst", 1), concurrent(t, "parallel")},
		Overrides: []policy.Override{{When: []policy.Condition{pro}, Limits: []domain.Limit{concurrent(t, "parallel")}}},
	})
}

func TestOverrideID_findsTheOverrideInAnotherFile(t *testing.T) {
	before := conditional(t, policy.Policy{Limits: []domain.Limit{named(t, "burst", 1), concurrent(t, "parallel")}, Overrides: []policy.Override{
		{Keys: []string{"a"}}, when(is(byPlan, "pro")), when(is(byPlan, "team"), is(byRegion, "eu")),
	}})
	after := conditional(t, policy.Policy{Limits: before.Limits, Overrides: []policy.Override{
		when(is(byPlan, "team", "eu")), when(is(byPlan, "team"), is(byRegion, "eu")), when(is(byPlan, "team", byRegion.String(), "eu")),
	}})
	assert.NotEqual(t, after.OverrideID(1), after.OverrideID(2))
	assert.Empty(t, before.OverrideID(0))
	assert.Empty(t, before.OverrideID(-1))
	rules := after.RulesByOverride(before.OverrideID(2))
	require.NotNil(t, rules)
	assert.Equal(t, 1, rules.Override)
	for _, id := range []string{before.OverrideID(1), ""} {
		assert.Nil(t, after.RulesByOverride(id))
	}
	assert.Empty(t, plans(t, 1, false).OverrideID(0), "only permits need it")
}

func TestSet_matchesHeaders(t *testing.T) {
	beta := is(clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-beta"}, "1", "yes")
	set := setOf(t,
		policy.Match{Path: "/a", Headers: []policy.Condition{beta, is(byPlan, "pro")}},         // p0
		policy.Match{Path: "/a", Headers: []policy.Condition{beta}, Methods: []string{"POST"}}, // p1
		policy.Match{Path: "/a"}, // p2
		policy.Match{Headers: []policy.Condition{is(byPlan, "pro")}, Host: "b.example"}, // p3
		policy.Match{Path: "/**"}, // p4
	)
	req := func(method, host, path string, values ...string) policy.Request {
		return policy.Request{Method: method, Host: host, Path: path, Lookup: func(s clientkey.Source) (string, error) {
			for i := 0; i < len(values); i += 2 {
				if values[i] == s.Name {
					if values[i+1] == "twice" {
						return "", errors.New("twice")
					}
					return values[i+1], nil
				}
			}
			return "", domain.ErrNoValue
		}}
	}
	for name, c := range map[string]struct {
		req  policy.Request
		want string
	}{
		"both":                       {req("GET", "", "/a", "x-beta", "yes", "x-plan", "pro"), "p0"},
		"one, and the method":        {req("POST", "", "/a", "x-beta", "1"), "p1"},
		"one, and another method":    {req("GET", "", "/a", "x-beta", "1"), "p2"},
		"another value":              {req("POST", "", "/a", "x-beta", "0"), "p2"},
		"none":                       {req("POST", "", "/a"), "p2"},
		"without a Lookup":           {policy.Request{Path: "/a"}, "p2"},
		"a host":                     {req("GET", "b.example", "/c", "x-plan", "pro"), "p3"},
		"a host, another value":      {req("GET", "b.example", "/c"), "p4"},
		"twice":                      {req("GET", "", "/a", "x-beta", "twice"), "twice"},
		"twice, where none asks":     {req("GET", "", "/c", "x-beta", "twice"), "p4"},
		"twice, after one that fits": {req("GET", "b.example", "/a", "x-plan", "twice"), "p2"},
	} {
		assert.Equal(t, c.want, matched(set, c.req), name)
	}
	early := setOf(t, policy.Match{Path: "/z"}, policy.Match{Path: "/**", Headers: []policy.Condition{beta}})
	assert.Equal(t, "p0", matched(early, req("GET", "", "/z", "x-beta", "twice")), "the policy before does not ask for it")
	assert.Equal(t, "twice", matched(early, req("GET", "", "/y", "x-beta", "twice")))

	get := req("GET", "", "/a")
	assert.Equal(t, "match.headers", set.All()[0].Match.Mismatch(&get))
	post := req("POST", "", "/a", "x-beta", "1")
	assert.Empty(t, set.All()[1].Match.Mismatch(&post))

	for want, m := range map[string]policy.Match{
		"match.headers: \"claim:scope\": must be a header":                                 {Headers: []policy.Condition{is(byScope, "a")}},
		"match.headers: \"a*\": must be a whole value":                                     {Headers: []policy.Condition{is(byPlan, "a*")}},
		"must have either domain and descriptor or any of methods, host, path and headers": {Headers: []policy.Condition{beta}, Domain: "edge", Descriptor: descriptor(t, "a")},
	} {
		p := policy.Policy{Name: "a", OnStoreFailure: policy.FailOpen, Limits: []domain.Limit{named(t, "burst", 1)}, Match: m}
		assert.ErrorContains(t, p.Validate(), want)
	}
}

func TestMatchCovers_headers(t *testing.T) {
	headers := func(conditions ...policy.Condition) policy.Match { return policy.Match{Headers: conditions} }
	for _, c := range []struct {
		a, b policy.Match
		want bool
	}{
		{policy.Match{}, headers(is(byPlan, "pro")), true},
		{headers(is(byPlan, "pro")), policy.Match{}, false},
		{headers(is(byPlan, "pro", "team")), headers(is(byPlan, "pro"), is(byRegion, "eu")), true},
		{headers(is(byPlan, "pro")), headers(is(byPlan, "pro", "team")), false},
		{headers(is(byPlan, "pro"), is(byRegion, "eu")), headers(is(byPlan, "pro")), false},
	} {
		assert.Equal(t, c.want, c.a.Covers(&c.b), "%+v, %+v", c.a, c.b)
	}
}
