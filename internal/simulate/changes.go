package simulate

import (
	"cmp"
	"slices"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// changes counts what two sides decide otherwise.
type changes struct {
	denied, allowed int
	policies        map[string]*change
	clients         map[clientName]*change
}

type change struct{ denied, allowed int }

// clientName is a client under a policy.
type clientName struct{ policy, client string }

func newChanges() *changes {
	return &changes{policies: make(map[string]*change), clients: make(map[clientName]*change)}
}

// add compares two decisions about one request.
func (c *changes) add(before, after *domain.Decision) {
	was, is := passes(before.Outcome), passes(after.Outcome)
	switch {
	case was && !is:
		c.denied++
		c.policy(after.Policy).denied++
		c.client(after).denied++
	case !was && is:
		c.allowed++
		c.policy(before.Policy).allowed++
		c.client(before).allowed++
	}
}

func (c *changes) policy(name string) *change {
	if c.policies[name] == nil {
		c.policies[name] = new(change)
	}
	return c.policies[name]
}

func (c *changes) client(d *domain.Decision) *change {
	known := c.clients[clientName{d.Policy, d.Client}]
	if known == nil {
		known = new(change)
		c.clients[clientName{d.Policy, strings.Clone(d.Client)}] = known
	}
	return known
}

// finish makes the report; it has the top clients.
func (c *changes) finish(before, after *Report, top int) *Changes {
	r := &Changes{NewlyDenied: c.denied, NewlyAllowed: c.allowed}
	for _, p := range before.Policies {
		r.Policies = append(r.Policies, PolicyChange{Name: p.Name, Before: &p.Counts})
	}
	for _, p := range after.Policies {
		at := slices.IndexFunc(r.Policies, func(known PolicyChange) bool { return known.Name == p.Name })
		if at < 0 {
			at = len(r.Policies)
			r.Policies = append(r.Policies, PolicyChange{Name: p.Name})
		}
		r.Policies[at].After = &p.Counts
	}
	for i := range r.Policies {
		if p := c.policies[r.Policies[i].Name]; p != nil {
			r.Policies[i].NewlyDenied, r.Policies[i].NewlyAllowed = p.denied, p.allowed
		}
	}
	for name, n := range c.clients {
		if n.denied > 0 {
			r.ClientsNewlyDenied++
		}
		if n.allowed > 0 {
			r.ClientsNewlyAllowed++
		}
		r.Clients = append(r.Clients, ClientChange{name.policy, name.client, n.denied, n.allowed})
	}
	slices.SortFunc(r.Clients, func(a, b ClientChange) int {
		return cmp.Or(cmp.Compare(b.NewlyDenied+b.NewlyAllowed, a.NewlyDenied+a.NewlyAllowed),
			cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Client, b.Client))
	})
	r.Clients = slices.Clip(r.Clients[:min(top, len(r.Clients))])
	return r
}
