package app

import (
	"maps"
	"sync"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/override"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// UseOverrides has the limiter decide by the overrides of a store, too, which the caller follows. Call it before the first request.
// Without it, the methods of ports.Overrides return an error.
// unfit is called, from decisions, with the policy and the client (see [override.ClientOf]) of an override of which something does not
// fit the policy any more, once for all clients whose overrides are equal.
// It may be nil, and must not block.
func (r *RateLimiter) UseOverrides(s ports.OverrideStore, unfit func(policyName, client string, reason error)) {
	r.overrides, r.table, r.unfit = s, s.Overrides(), unfit
	if unfit == nil {
		r.unfit = func(string, string, error) {}
	}
}

// overrideRules returns the rules of the client of a key under a policy by its override at run time. They go before all that the file
// says of it. They are nil if no override is in force that fits the policy; then the file's apply. It takes no lock, unless the rules
// are computed now. Callers on the hot path ask hasOverrides or mayHaveOverride first.
func (r *RateLimiter) overrideRules(p *policy.Policy, key clientkey.BucketKey) *override.Rules {
	if r.table == nil {
		return nil
	}
	terms := r.table.Find(key)
	if terms == nil || terms.ExpiresAt() != 0 && terms.ExpiresAt() <= domain.InstantOf(r.now()) {
		return nil
	}
	rules, isNew := r.table.Rules(terms, p)
	if isNew && rules.Unfit != nil {
		r.unfit(p.Name, override.ClientOf(key), rules.Unfit)
	}
	if rules.Applies {
		return rules
	}
	return nil
}

// groupsOf returns the limits of rules or, for a client that is blocked or exempt, those of the policy.
func groupsOf(p *policy.Policy, rules *policy.Rules) []policy.Group {
	if rules.Groups != nil {
		return rules.Groups
	}
	return p.Groups()
}

// hasOverrides reports whether any client has an override at run time under a policy, or of a shared limit.
func (r *RateLimiter) hasOverrides(owner string) bool {
	return r.table != nil && r.table.Has(owner)
}

// mayHaveOverride reports false if no client of a policy has an override at run time. It may report true all the same under a policy that
// needs the client's key anyway: there, Table.Find is as quick as Table.Has.
func (r *RateLimiter) mayHaveOverride(p *policy.Policy) bool {
	return r.table != nil && !r.table.Empty() && (p.NeedsPolicyKey() || r.table.Has(p.Name))
}

// limitsFor is policy.Group.LimitsFor, but for the clients of a shared limit that an override at run time names. key is the group's.
func (r *RateLimiter) limitsFor(g *policy.Group, key clientkey.BucketKey, client []clientkey.Part, usedFallbackKey bool) []domain.Limit {
	if limits := r.sharedOverride(g, key); limits != nil {
		return limits
	}
	return g.LimitsFor(client, usedFallbackKey)
}

// limitsForListed is limitsFor for the group of a permit's text.
func (r *RateLimiter) limitsForListed(g *policy.Group, t *groupText) []domain.Limit {
	if limits := r.sharedOverride(g, t.Key); limits != nil {
		return limits
	}
	return g.LimitsForListed(t.Client, t.NoKey, t.Override)
}

// sharedOverride returns the limits of an override at run time of a shared limit, or nil.
func (r *RateLimiter) sharedOverride(g *policy.Group, key clientkey.BucketKey) []domain.Limit {
	if g.Shared != nil && r.hasOverrides(g.Owner) {
		if rules := r.overrideRules(g.Shared.Policy(), key); rules != nil {
			return rules.Groups[0].Limits
		}
	}
	return nil
}

// countInterval is the least time between two counts of unfit overrides, unless the policies have changed. A count of 100,000 that all
// differ takes about half a second.
const countInterval = time.Minute

// unfitCounts are the overrides that did not fit when they were last counted.
type unfitCounts struct {
	mu       sync.Mutex
	at       time.Duration
	sum      uint64                    // of the table
	policies map[string]*policy.Policy // by the names of those that have overrides; nil for one that is gone
	counts   map[string]int
}

// UnfitOverrides counts, for each policy and shared limit that has overrides, those of which something does not fit it as it is now
// and is ignored: a limit, the client's key or, where the policy is gone, all. A change of the policies counts at once, one of the
// overrides within a minute. The map must not be changed.
func (r *RateLimiter) UnfitOverrides() map[string]int {
	if r.table == nil {
		return nil
	}
	policies := make(map[string]*policy.Policy)
	for _, name := range r.table.Owners() {
		policies[name], _ = r.policyOrShared(name) // nil beside an error
	}
	c := &r.unfitSeen
	c.mu.Lock()
	defer c.mu.Unlock()
	now, sum := r.clock(), r.table.Stats().Sum
	if c.counts == nil || !maps.Equal(policies, c.policies) || sum != c.sum && now-c.at >= countInterval {
		c.at, c.sum, c.policies, c.counts = now, sum, policies, r.countUnfit(policies)
	}
	return c.counts
}

func (r *RateLimiter) countUnfit(policies map[string]*policy.Policy) map[string]int {
	counts := make(map[string]int, len(policies))
	for name := range policies {
		counts[name] = 0
	}
	type rule struct{ owner, effect string }
	fits := make(map[rule]bool) // many overrides have the same effect
	r.table.All(func(e override.Entry) {
		owner := e.Owner()
		p, counted := policies[owner]
		if e.Ended || !counted {
			return
		}
		fit, known := fits[rule{owner, e.Effect}]
		if !known {
			fit = p != nil && override.Fits(p, e.Effect) == nil
			fits[rule{owner, e.Effect}] = fit
		}
		if !fit || keyChanged(p, &e) {
			counts[owner]++
		}
	})
	return counts
}
