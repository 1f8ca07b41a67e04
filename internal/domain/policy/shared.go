package policy

import (
	"errors"
	"slices"
	"strconv"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
)

// SharedPrefix starts the name by which a shared limit is known where a policy could be named: "shared/tenant". No policy
// has such a name.
const SharedPrefix = "shared/"

// MaxShared is the most shared limits that one set can have.
const MaxShared = 10_000

// Shared is a limit that several policies use: a client has one bucket or one quota under all of them. It has a key and
// overrides of its own. [NewShared] makes it, [Policy.Use] adds it to a policy, and [NewSet] to a set; then it is immutable.
type Shared struct{ own Policy }

// NewShared returns a shared limit that counts by key; nil is the client's address. The overrides are for clients by the value
// of key, and may name this limit only. The error joins every violation; each is a [domain.FieldError].
func NewShared(limit domain.Limit, key clientkey.Key, overrides ...Override) (*Shared, error) {
	s := &Shared{Policy{
		Name: limit.Name(), Key: key, Limits: []domain.Limit{limit}, Overrides: slices.Clone(overrides), OnStoreFailure: FailOpen,
	}}
	err := s.own.Validate()
	if slices.Contains(key, clientkey.Source{Kind: clientkey.SourceDescriptor}) {
		err = errors.Join(err, invalid("key", strconv.Quote(key.String()), "must not be a descriptor: policies match different ones"))
	}
	if slices.ContainsFunc(overrides, func(o Override) bool { return len(o.When) > 0 }) {
		err = errors.Join(err, invalid("overrides", "", "must have keys, and no when: the limit is shared by policies whose clients differ"))
	}
	if err != nil {
		return nil, err
	}
	s.own.Name = SharedPrefix + s.own.Name
	s.own.compile()
	return s, nil
}

// Name is the limit's name. It is unique among the shared limits.
func (s *Shared) Name() string { return s.own.Limits[0].Name() }

// Policy returns a policy of this limit alone, with its key and its overrides, for looking at the limit's clients. Its name
// is [SharedPrefix] and that of the limit, and its cost the highest constant one of the policies in its [Set]. Requests must not be
// decided by it.
func (s *Shared) Policy() *Policy { return &s.own }

// Use appends a shared limit to the policy's limits.
func (p *Policy) Use(s *Shared) {
	p.Limits = append(p.Limits, s.own.Limits[0])
	if p.Shared == nil {
		p.Shared = make(map[string]*Shared)
	}
	p.Shared[s.Name()] = s
}

// SharedNotOverridden is why an override of a policy is refused that names a shared limit.
const SharedNotOverridden = "is a shared limit: it has overrides of its own, which all policies share"

// checkShared checks the shared limits that the policy uses.
func (p *Policy) checkShared() (errs []error) {
	for name, s := range p.Shared {
		same := func(l domain.Limit) bool { return l.Equal(s.own.Limits[0]) }
		if s.Name() != name || !slices.ContainsFunc(p.Limits, same) {
			errs = append(errs, invalid("limits", strconv.Quote(name), "is a shared limit that was not added by Use"))
		}
		if _, own := p.LimitKeys[name]; own {
			errs = append(errs, invalid("limits", strconv.Quote(name), "has a key as a shared limit, and must not have another one"))
		}
	}
	return errs
}

// LimitsFor returns the limits of the group for a client, given as the parts of the group's key. They are Limits, but for the
// clients of a shared limit that an override of it names. usedFallbackKey is as in [Policy.RulesFor].
func (g *Group) LimitsFor(client []clientkey.Part, usedFallbackKey bool) []domain.Limit {
	return g.limitsOf(g.OverrideFor(client, usedFallbackKey))
}

// OverrideFor returns the index of the override of the shared limit that applies to a client, as [Group.LimitsFor] finds it, or -1.
func (g *Group) OverrideFor(client []clientkey.Part, usedFallbackKey bool) int {
	if g.Shared == nil || !g.Shared.own.compiled.patterns.nonEmpty {
		return -1
	}
	return g.Shared.own.RulesForParts(client, usedFallbackKey).Override
}

// LimitsForListed is [Group.LimitsFor] for a client that is given as it is listed. If the shared limit has an override of this
// [Policy.OverrideID], they are those of its clients.
func (g *Group) LimitsForListed(client string, usedFallbackKey bool, overrideID string) []domain.Limit {
	if g.Shared == nil {
		return g.Limits
	}
	if rules := g.Shared.own.RulesByOverride(overrideID); rules != nil {
		return rules.Groups[0].Limits
	}
	return g.limitsOf(g.Shared.own.RulesForListed(client, usedFallbackKey).Override)
}

// limitsOf returns the limits for the clients of an override of the shared limit; -1: for those without one.
func (g *Group) limitsOf(override int) []domain.Limit {
	if override < 0 {
		return g.Limits
	}
	return g.Shared.own.compiled.rulesOf(int32(override) + firstOverride).Groups[0].Limits
}
