package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// byAPIKey is a secret source.
func byAPIKey(t testing.TB) clientkey.Source {
	t.Helper()
	h, err := clientkey.NewHasher([]byte("0123456789abcdef"))
	require.NoError(t, err)
	return clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-api-key", Hasher: h}
}

func TestRulesFor_secretKey(t *testing.T) {
	source := byAPIKey(t)
	p := compiledPolicy(t, policy.Policy{
		Key: clientkey.Key{source}, Limits: []domain.Limit{named(t, "burst", 10)},
		Overrides: []policy.Override{
			{Keys: []string{"partner-*"}, Limits: []domain.Limit{named(t, "burst", 50)}},
			{Keys: []string{"alice", "partner-1"}, Limits: []domain.Limit{named(t, "burst", 90)}},
		},
		Exempt: []string{"health"}, Block: []string{"banned"},
	})
	listed := func(value string) *policy.Rules { return p.RulesForListed(source.Hasher.Hash(value), false) }
	assert.Equal(t, 0, p.RulesFor("partner-1", false).Override, "requests are compared by their value")
	assert.Equal(t, 1, listed("partner-1").Override, "the pattern with a * cannot be compared with an HMAC")
	assert.Equal(t, -1, listed("partner-2").Override)
	assert.Equal(t, 1, listed("alice").Override)
	assert.True(t, listed("health").Exempt)
	assert.True(t, listed("banned").Blocked)
	assert.Equal(t, -1, p.RulesForListed("alice", false).Override, "this is no HMAC")
	assert.Equal(t, -1, p.RulesForListed(source.Hasher.Hash("alice"), true).Override)

	assert.Equal(t, 0, p.RulesForParts([]clientkey.Part{clientkey.NewPart(source, "partner-1")}, false).Override)
	assert.Equal(t, 1, p.RulesForParts([]clientkey.Part{clientkey.ListedPart(source, source.Hasher.Hash("partner-1"))}, false).Override)
}

func TestRulesForListed_aStarIsForEveryClient(t *testing.T) {
	source := byAPIKey(t)
	p := compiledPolicy(t, policy.Policy{
		Key: clientkey.Key{source, {Kind: clientkey.SourceIP}}, Limits: []domain.Limit{named(t, "burst", 10)},
		Block: []string{"a%26b&192.0.2.1"}, Exempt: []string{"*"},
	})
	client := func(value string) string {
		return clientkey.ListValue([]clientkey.Part{clientkey.NewPart(source, value), {Value: "192.0.2.1"}})
	}
	assert.True(t, p.RulesForListed(client("a&b"), false).Blocked)
	assert.True(t, p.RulesForListed(client("c"), false).Exempt)
	assert.True(t, p.RulesForListed(client("c"), true).Exempt)
}

func TestLimitsForListed_ofASharedLimit(t *testing.T) {
	source := byAPIKey(t)
	s, err := policy.NewShared(named(t, "tenant", 10), clientkey.Key{source},
		policy.Override{Keys: []string{"big-*"}, Limits: []domain.Limit{named(t, "tenant", 50)}},
		policy.Override{Keys: []string{"alice"}, Limits: []domain.Limit{named(t, "tenant", 90)}})
	require.NoError(t, err)
	p := policy.Policy{Name: "a", Key: clientkey.Key{source}, OnStoreFailure: policy.FailOpen}
	p.Use(s)
	require.NoError(t, p.Compile())
	g := &p.Groups()[0]
	capacity := func(limits []domain.Limit) domain.Tokens { return limits[0].Capacity() }
	big := []clientkey.Part{clientkey.NewPart(source, "big-1")}
	assert.Equal(t, domain.Tokens(50), capacity(g.LimitsFor(big, false)))
	assert.Equal(t, 0, g.OverrideFor(big, false))
	assert.Equal(t, domain.Tokens(10), capacity(g.LimitsForListed(big[0].Value, false, "")))
	assert.Equal(t, domain.Tokens(50), capacity(g.LimitsForListed(big[0].Value, false, s.Policy().OverrideID(0))))
	assert.Equal(t, domain.Tokens(10), capacity(g.LimitsForListed(big[0].Value, false, "gone")))
	assert.Equal(t, domain.Tokens(90), capacity(g.LimitsForListed(source.Hasher.Hash("alice"), false, "")))
}

func TestValidate_aSourceIsSecretInAllKeysOrInNone(t *testing.T) {
	source := byAPIKey(t)
	other, err := policy.NewShared(named(t, "tenant", 10), clientkey.Key{source.Public()})
	require.NoError(t, err)
	p := policy.Policy{
		Name: "a", Key: clientkey.Key{source}, Limits: []domain.Limit{named(t, "burst", 10)}, OnStoreFailure: policy.FailOpen,
		LimitKeys: map[string]clientkey.Key{"burst": {{Kind: clientkey.SourceIP}, source.Public()}},
	}
	p.Use(other)
	const reason = `"header:x-api-key": must be secret in every key of the policy and of its shared limits, or in none`
	require.EqualError(t, p.Validate(), "limits.burst.key: "+reason+"\nlimits.tenant.key: "+reason)
	p.LimitKeys["burst"] = clientkey.Key{{Kind: clientkey.SourceIP}, source}
	p.Limits, p.Shared = p.Limits[:1], nil
	assert.NoError(t, p.Validate())
}

func TestValidate_missingKey(t *testing.T) {
	descriptor := policy.Match{Domain: "edge", Descriptor: []policy.DescriptorPattern{{Key: "user"}}}
	for name, c := range map[string]struct {
		match policy.Match
		key   clientkey.Key
		value policy.MissingKey
		want  string
	}{
		"a header":           {policy.Match{}, clientkey.Key{byTenant}, policy.MissingKeyRefuse, ""},
		"a header of a list": {policy.Match{}, clientkey.Key{{}, byTenant}, policy.MissingKeyRefuse, ""},
		"an address":         {policy.Match{}, nil, policy.MissingKeyRefuse, "missing_key: refuse: has no effect: every request has the key ip"},
		"all clients":        {policy.Match{}, clientkey.Key{{Kind: clientkey.SourceGlobal}}, policy.MissingKeyRefuse, "missing_key: refuse: has no effect: every request has the key global"},
		"for Envoy":          {descriptor, nil, policy.MissingKeyRefuse, "missing_key: refuse: has no effect: every request has the key descriptor"},
		"address":            {policy.Match{}, nil, policy.MissingKeyAddress, ""},
		"another one":        {policy.Match{}, clientkey.Key{byTenant}, 2, "missing_key: 2: must be address or refuse"},
	} {
		t.Run(name, func(t *testing.T) {
			p := policy.Policy{
				Name: "a", Match: c.match, Key: c.key, MissingKey: c.value, Limits: []domain.Limit{named(t, "burst", 10)}, OnStoreFailure: policy.FailOpen,
			}
			if err := p.Validate(); c.want == "" {
				assert.NoError(t, err)
			} else {
				assert.EqualError(t, err, c.want)
			}
		})
	}
}

func TestParseMissingKey(t *testing.T) {
	for _, text := range []string{"address", "refuse"} {
		m, err := policy.ParseMissingKey(text)
		require.NoError(t, err)
		assert.Equal(t, text, m.String())
	}
	_, err := policy.ParseMissingKey("401")
	assert.EqualError(t, err, `missing_key: "401": must be address or refuse`)
}

// An HMAC in a policy file would match the client that sends it, and not the one that it is of.
func TestValidate_patternsOfSecretKeysAreNoHMACs(t *testing.T) {
	source := byAPIKey(t)
	p := policy.Policy{
		Name: "a", Key: clientkey.Key{source}, Limits: []domain.Limit{named(t, "burst", 10)}, OnStoreFailure: policy.FailOpen,
		Block: []string{"x&hmac:*"}, Exempt: []string{"hmac:12"}, Overrides: []policy.Override{{Keys: []string{"ok", "hmac:1"}, Limits: []domain.Limit{named(t, "burst", 1)}}},
	}
	const reason = "must be the value: patterns are compared with it, and not with its HMAC"
	require.EqualError(t, p.Validate(), "exempt[0]: "+reason+"\nblock[0]: "+reason+"\noverrides[0].keys[1]: "+reason)
	p.Key = clientkey.Key{source.Public()}
	assert.NoError(t, p.Validate())
}

// A permit's text has the ID: whoever reads it must not find a pattern by trying.
func TestOverrideID_ofASecretKeyNeedsTheSecret(t *testing.T) {
	ids := map[string]bool{}
	for _, secret := range []string{"0123456789abcdef", "0123456789abcdef", "fedcba9876543210"} {
		h, err := clientkey.NewHasher([]byte(secret))
		require.NoError(t, err)
		s, err := policy.NewShared(named(t, "tenant", 10), clientkey.Key{{Kind: clientkey.SourceHeader, Name: "x-api-key", Hasher: h}},
			policy.Override{Keys: []string{"sk_live_1"}, Limits: []domain.Limit{named(t, "tenant", 50)}})
		require.NoError(t, err)
		assert.Len(t, s.Policy().OverrideID(0), 16)
		ids[s.Policy().OverrideID(0)] = true
	}
	assert.Len(t, ids, 2, "one for each secret")
}

// Errors of a policy are logged when its file is read again.
func TestValidate_showsNoPatternOfASecretKey(t *testing.T) {
	source := byAPIKey(t)
	p := policy.Policy{
		Name: "a", Key: clientkey.Key{source}, Limits: []domain.Limit{named(t, "burst", 10)}, OnStoreFailure: policy.FailOpen, Cost: policy.Cost{Fixed: 5},
		Exempt: []string{"ok", "sk_live_*x*"},
		Overrides: []policy.Override{
			{Keys: []string{"sk_*live_*"}, Limits: []domain.Limit{named(t, "burst", 10)}},
			{Keys: []string{"sk_live_1"}, Limits: []domain.Limit{named(t, "burst", 3)}},
		},
	}
	require.EqualError(t, p.Validate(), "cost: 5: must be at most 3, the capacity of the limit burst of overrides[1]: a request that costs more never passes\n"+
		"exempt[1]: must have one * at most\noverrides[0].keys[0]: must have one * at most")
	p.Overrides[1].Keys, p.Overrides[1].When = nil, []policy.Condition{{Source: source.Public(), Values: []string{"sk_live_*"}}}
	p.Match.Headers = p.Overrides[1].When
	for _, wrong := range domain.FieldErrors(p.Validate()) {
		assert.NotContains(t, wrong.Error(), "sk_live")
	}
	p.Overrides[1].Line = 12
	assert.ErrorContains(t, p.Validate(), "the capacity of the limit burst of the override on line 12: ")
}
