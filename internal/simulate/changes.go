package simulate

import (
	"cmp"
	"slices"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

// changes counts the requests of each client on which two sides differ.
type changes map[clientName]*Change

// clientName names a client under a policy.
type clientName struct{ policy, client string }

// add compares two decisions about one request.
func (c changes) add(before, after *decision.Decision) {
	was, is := passes(before.Outcome), passes(after.Outcome)
	switch {
	case was && !is:
		c.client(after).NewlyDenied++
	case !was && is:
		c.client(before).NewlyAllowed++
	}
}

func (c changes) client(d *decision.Decision) *Change {
	known := c[clientName{d.Policy, d.Client}]
	if known == nil {
		known = new(Change)
		c[clientName{d.Policy, strings.Clone(d.Client)}] = known
	}
	return known
}

// finish returns the report, which names the top clients.
func (c changes) finish(before, after *Report, top int) *Changes {
	r := &Changes{}
	index := make(map[string]int) // of each policy in r.Policies
	for _, p := range before.Policies {
		index[p.Name] = len(r.Policies)
		r.Policies = append(r.Policies, PolicyChange{Name: p.Name, Before: &p.Counts})
	}
	for _, p := range after.Policies {
		if _, known := index[p.Name]; !known {
			index[p.Name] = len(r.Policies)
			r.Policies = append(r.Policies, PolicyChange{Name: p.Name})
		}
		r.Policies[index[p.Name]].After = &p.Counts
	}
	for name, n := range c {
		r.add(n)
		r.ClientsNewlyDenied += min(n.NewlyDenied, 1)
		r.ClientsNewlyAllowed += min(n.NewlyAllowed, 1)
		r.Policies[index[name.policy]].add(n)
		r.Clients = append(r.Clients, ClientChange{name.policy, name.client, *n})
	}
	slices.SortFunc(r.Clients, func(a, b ClientChange) int {
		return cmp.Or(cmp.Compare(b.NewlyDenied+b.NewlyAllowed, a.NewlyDenied+a.NewlyAllowed),
			cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Client, b.Client))
	})
	r.Clients = slices.Clip(r.Clients[:min(top, len(r.Clients))])
	return r
}
