package policy

import (
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Replaceable returns the limit of that name, which an override at run time replaces for one client. The error is a
// [domain.FieldError] of the field "name" if the policy has no such limit, or if the limit does not count by the policy's key.
func (p *Policy) Replaceable(name string) (domain.Limit, error) {
	at := slices.IndexFunc(p.Limits, func(l domain.Limit) bool { return l.Name() == name })
	reason := ""
	switch {
	case at < 0:
		reason = p.NotALimit()
	case p.Shared[name] != nil:
		reason = SharedNotOverridden + ": name " + SharedPrefix + name + " as the policy"
	case !p.KeyOf(name).Equal(p.EffectiveKey()):
		reason = "counts by a key of its own, " + p.KeyOf(name).String() + ": an override of one client cannot change what others share"
	default:
		return p.Limits[at], nil
	}
	return domain.Limit{}, invalid("name", strconv.Quote(name), reason)
}

// NotALimit is why an override is refused that names a limit that the policy does not have. It names those that there are.
func (p *Policy) NotALimit() string {
	names := make([]string, len(p.Limits))
	for i := range p.Limits {
		names[i] = p.Limits[i].Name()
	}
	return "is not a limit of this policy, which has " + strings.Join(names, ", ")
}

// GroupsWith returns the policy's bucket groups with these limits in place of those of the same names, which must be
// [Policy.Replaceable]. All else is shared with [Policy.Groups], so that the groups of many overrides are small. The policy must be
// compiled.
func (p *Policy) GroupsWith(limits []domain.Limit) []Group {
	return groupsWith(p.Groups(), limits)
}

func groupsWith(groups []Group, limits []domain.Limit) []Group {
	groups = slices.Clone(groups)
	for i := range groups {
		if groups[i].ByPolicyKey { // only its limits are replaceable
			groups[i].Limits = replaced(groups[i].Limits, limits)
		}
	}
	return groups
}
