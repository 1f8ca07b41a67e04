package policy

import (
	"slices"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// compiled holds what deciding needs, computed once.
type compiled struct {
	rules          Rules   // for clients that no pattern and no condition fits
	ranked         []Rules // for the others, by their ranks
	patterns       patternIndex
	conditions     conditionIndex   // of overrides; a rule's rank is that of the override's patterns
	listed         map[string]int32 // of a secret key: the ranks of the patterns without *, by their clients as they are listed
	overrideIDs    []string         // see [Policy.OverrideID]; nil if no override has one
	needsPolicyKey bool
	hasConcurrency bool
}

// Group is a bucket group: the limits of one policy that share a key. They are taken in one atomic step.
type Group struct {
	*GroupKey
	// Limits of the group. All requests share them; they must not be changed. If policies share the limit, they are for clients without
	// an override; see [Group.LimitsFor].
	Limits []domain.Limit
}

// GroupKey says by what the requests to a group are counted: the same for clients with and without an override. It is immutable.
type GroupKey struct {
	// Owner starts the keys of the group's buckets: the policy's name, or [SharedPrefix] and the name of a shared limit.
	Owner string
	// Key of the group's buckets.
	Key clientkey.Key
	// Positions are the indexes of the limits in the policy: Group.Limits[i] is Policy.Limits[Positions[i]], or replaces it.
	Positions []int
	// ByPolicyKey reports whether Key is the policy's key. It is false for a shared limit.
	ByPolicyKey bool
	// FixedKey is the key of the group's only buckets, if Key is global and the limits are not shared; else it is empty.
	FixedKey clientkey.BucketKey
	// Shared is the limit of the group, if policies share it, else nil.
	Shared *Shared
}

// The ranks of a policy's patterns.
const (
	rankBlock = iota
	rankExempt
	firstOverride
)

// EffectiveKey is the key of every limit that has no key of its own: Key if it is set, else the descriptor in a policy for
// Envoy, else the client's address.
func (p *Policy) EffectiveKey() clientkey.Key {
	if len(p.Key) == 0 && p.Match.ForEnvoy() {
		return clientkey.Key{{Kind: clientkey.SourceDescriptor}}
	}
	return clientkey.Key(p.Key.Sources())
}

// Compiled reports whether the policy is ready for use.
func (p *Policy) Compiled() bool { return p.compiled != nil }

// Groups are the policy's bucket groups for clients without an override, in the order of their first limits. It is nil
// before Compile.
func (p *Policy) Groups() []Group {
	if p.compiled == nil {
		return nil
	}
	return p.compiled.rules.Groups
}

// NeedsPolicyKey reports whether any limit or pattern needs the value of the policy's key. The policy must be compiled.
func (p *Policy) NeedsPolicyKey() bool { return p.compiled.needsPolicyKey }

// HasConcurrency reports whether any limit of the policy is of domain.KindConcurrency, for any client. The policy must be compiled.
func (p *Policy) HasConcurrency() bool { return p.compiled.hasConcurrency }

// Rules are what a policy says about one client. They are immutable.
type Rules struct {
	// Blocked and Exempt clients are not held against limits.
	Blocked, Exempt bool
	// Override is the index of the override that applies, or -1.
	Override int
	// Groups are the limits that decide. Nil for a client that is blocked or exempt.
	Groups []Group
}

// RulesFor returns the rules for a client, given as the value of the policy's key; see [clientkey.RawListValue]. usedFallbackKey says
// that the request lacked that value, or a part of it, and the client's address replaced it: then only the pattern *
// matches. It knows no conditions: overrides that have some do not apply; see [Policy.RulesForRequest]. RulesFor does not allocate. The
// policy must be compiled.
func (p *Policy) RulesFor(client string, usedFallbackKey bool) *Rules {
	return p.compiled.rulesOf(p.compiled.rankOf(client, usedFallbackKey))
}

// HasConditions reports whether an override has conditions. The policy must be compiled.
func (p *Policy) HasConditions() bool { return len(p.compiled.conditions.sources) > 0 }

// ConditionSources returns the sources of all conditions of overrides, each once, in the order of the file.
func (p *Policy) ConditionSources() (names []string) {
	for i := range p.Overrides {
		for _, c := range p.Overrides[i].When {
			if name := c.Source.String(); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// RulesForRequest is RulesFor for one request: overrides may have conditions, of which facts decide. The error is one of facts, for a
// value on which the rules may depend. RulesForRequest does not allocate, unless facts do.
func (p *Policy) RulesForRequest(client string, usedFallbackKey bool, facts Facts) (*Rules, error) {
	rank := p.compiled.rankOf(client, usedFallbackKey)
	if rank < firstOverride {
		return p.compiled.rulesOf(rank), nil
	}
	rank, _, err := p.compiled.conditions.find(facts, "", rank)
	if err != nil {
		return nil, err
	}
	return p.compiled.rulesOf(rank), nil
}

// RulesForListed is [Policy.RulesFor] for a client that is given as it is listed; see [clientkey.ListValue]. Of a secret value only
// the HMAC is known then: besides the pattern *, only patterns without a * match.
func (p *Policy) RulesForListed(client string, usedFallbackKey bool) *Rules {
	c := p.compiled
	if c.listed == nil || usedFallbackKey {
		return p.RulesFor(client, usedFallbackKey)
	}
	rank := c.patterns.matchAll
	if exact, there := c.listed[client]; there {
		rank = min(rank, exact)
	}
	return c.rulesOf(rank)
}

// RulesForParts is [Policy.RulesFor] for a client that an operator named, given as the parts of the policy's key, of whose secret
// values perhaps only the HMACs are known.
func (p *Policy) RulesForParts(client []clientkey.Part, usedFallbackKey bool) *Rules {
	if raw, known := clientkey.RawListValue(client); known {
		return p.RulesFor(raw, usedFallbackKey)
	}
	return p.RulesForListed(clientkey.ListValue(client), usedFallbackKey)
}

// OverrideID returns a text that identifies an override, given by its index as Rules has it, also after the policy has changed. It is
// "" for -1, for an override that follows from the client as it is listed, and under a policy that grants no permits: it has neither
// a concurrency limit nor a shared limit, which an override at run time may make one.
func (p *Policy) OverrideID(override int) string {
	if override < 0 || p.compiled.overrideIDs == nil {
		return ""
	}
	return p.compiled.overrideIDs[override]
}

// RulesByOverride returns the rules of the first override that has an ID; see [Policy.OverrideID]. It is nil if there is none.
func (p *Policy) RulesByOverride(id string) *Rules {
	override := slices.Index(p.compiled.overrideIDs, id)
	if id == "" || override < 0 {
		return nil
	}
	return p.compiled.rulesOf(int32(override) + firstOverride)
}

// rankOf returns the lowest rank of the patterns that match a client, or noRank.
func (c *compiled) rankOf(client string, usedFallbackKey bool) int32 {
	switch {
	case !c.patterns.nonEmpty:
		return noRank
	case usedFallbackKey:
		return c.patterns.matchAll
	default:
		return c.patterns.find(client)
	}
}

func (c *compiled) rulesOf(rank int32) *Rules {
	if rank == noRank {
		return &c.rules
	}
	return &c.ranked[rank]
}
