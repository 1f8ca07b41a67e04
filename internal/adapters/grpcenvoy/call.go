package grpcenvoy

import (
	"context"
	"slices"
	"sync"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// call is the working memory of one request, used again by later ones.
type call struct {
	domain  string
	traceID string // for the log; empty if the call is not recorded
	items   []item
	entries []domain.DescriptorEntry // those of all items, one after the other
	takes   []domain.Request         // takes and peeks, which are decided together
	refunds []domain.Request         // carried out once all of those pass
	answers []ports.Answer           // of the takes, then of the refunds
}

// item is one descriptor.
type item struct {
	kind kind
	// rule of the configuration, or made of the limit that the request brings; nil: the policies decide.
	rule *envoyconfig.Rule
	// entries of the descriptor, part of the call's.
	entries []domain.DescriptorEntry
	hits    hits
	// answer's place, if the limiter was asked.
	answer int
}

// kind says who decides an item.
type kind uint8

const (
	byLimiter kind = iota
	byNobody       // no rule applies, or another one stands in its place: it is not limited
	unlimited      // the rule limits nothing
	zero           // the rule lets no hit pass, whatever the store says
)

// hits is what a descriptor asks for.
type hits struct {
	cost domain.Tokens
	// unset says that neither the descriptor nor the request names a number: one hit, or what the policy says.
	unset bool
	// back gives them back.
	back bool
}

func hitsOf(r *rlsv3.RateLimitRequest, d *ratelimitv3.RateLimitDescriptor) hits {
	h := hits{cost: domain.Tokens(r.GetHitsAddend()), back: d.GetIsNegativeHits()}
	if own := d.GetHitsAddend(); own != nil {
		h.cost = domain.Tokens(own.GetValue()) // 0 is a look
	} else if h.cost == 0 {
		h.cost, h.unset = 1, true
	}
	return h
}

// plan finds out who decides each descriptor, and what the limiter is to be asked.
func (c *call) plan(s *service, r *rlsv3.RateLimitRequest) error {
	c.domain = r.GetDomain()
	ruled := s.rules.Knows(c.domain)
	for _, d := range r.GetDescriptors() {
		it := item{entries: c.entriesOf(d), hits: hitsOf(r, d)}
		switch {
		case d.GetLimit() != nil:
			var err error
			if it.rule, err = s.overrides.rule(d.GetLimit()); err != nil {
				return err
			}
			it.kind = kindOf(it.rule)
		case ruled:
			it.rule = s.rules.Find(c.domain, it.entries)
			it.kind = kindOf(it.rule)
		}
		c.items = append(c.items, it)
	}
	c.replace()
	c.ask()
	return nil
}

func (c *call) entriesOf(d *ratelimitv3.RateLimitDescriptor) []domain.DescriptorEntry {
	first := len(c.entries)
	for _, e := range d.GetEntries() {
		c.entries = append(c.entries, domain.DescriptorEntry{Key: e.GetKey(), Value: e.GetValue()})
	}
	return c.entries[first:]
}

func kindOf(rule *envoyconfig.Rule) kind {
	switch {
	case rule == nil:
		return byNobody
	case rule.Unlimited:
		return unlimited
	case rule.Policy == nil:
		return zero
	default:
		return byLimiter
	}
}

// replace takes out the rules whose names another rule of the request replaces. One that is itself replaced replaces all
// the same, and one that is unlimited stays.
func (c *call) replace() {
	for i := range c.items {
		rule := c.items[i].rule
		if rule == nil {
			continue
		}
		for j := range c.items {
			other := &c.items[j]
			if other.rule != nil && other.rule.Name != "" && other.kind != unlimited && slices.Contains(rule.Replaces, other.rule.Name) {
				other.kind = byNobody
			}
		}
	}
}

// ask makes the requests for the limiter.
func (c *call) ask() {
	shut := slices.ContainsFunc(c.items, func(it item) bool { return it.kind == zero && !it.passes() })
	for i := range c.items {
		it := &c.items[i]
		if it.kind != byLimiter {
			continue
		}
		req := domain.Request{Cost: it.hits.cost, PolicyCost: it.hits.unset, TraceID: c.traceID}
		if it.rule != nil {
			first := len(c.entries)
			c.entries = it.rule.Entries(c.entries, c.domain, it.entries)
			req.Own, req.Descriptor, req.PolicyCost = it.rule.Policy, c.entries[first:], false
		} else {
			req.Domain, req.Descriptor = c.domain, it.entries
		}
		switch {
		case shut: // the request is denied already, and a denial spends nothing and gives nothing back
			req.Op = domain.OpPeek
		case it.hits.back && it.hits.cost > 0:
			it.answer = len(c.refunds)
			req.Op = domain.OpRefund
			c.refunds = append(c.refunds, req)
			continue
		}
		it.hits.back = false
		it.answer = len(c.takes)
		c.takes = append(c.takes, req)
	}
}

// passes reports whether a rule that lets no hit pass lets this item pass.
func (it *item) passes() bool { return it.rule.Shadow || it.hits.cost == 0 || it.hits.back }

// decide asks the limiter.
func (c *call) decide(ctx context.Context, limiter ports.Limiter) error {
	answers := c.answersFor(len(c.takes) + len(c.refunds))
	taken := answers[:len(c.takes)]
	switch len(c.takes) {
	case 0:
	case 1:
		limiter.DecideMany(ctx, c.takes, taken)
	default:
		limiter.DecideTogether(ctx, c.takes, taken)
	}
	for i := range taken {
		if taken[i].Err != nil {
			return taken[i].Err
		}
		if !taken[i].Decision.Allowed() { // nothing is spent, so nothing is given back either
			for j := range c.refunds {
				c.refunds[j].Op = domain.OpPeek
			}
		}
	}
	if len(c.refunds) == 0 {
		return nil
	}
	back := answers[len(c.takes):]
	limiter.DecideMany(ctx, c.refunds, back)
	for i := range back {
		if back[i].Err != nil {
			return back[i].Err
		}
	}
	return nil
}

// decision is the limiter's answer to an item.
func (c *call) decision(it *item) *domain.Decision {
	if it.hits.back {
		return &c.answers[len(c.takes)+it.answer].Decision
	}
	return &c.answers[it.answer].Decision
}

// answersFor keeps what the slots point to: the limiter writes into the same memory again.
func (c *call) answersFor(n int) []ports.Answer {
	if n > cap(c.answers) {
		c.answers = append(c.answers[:cap(c.answers)], make([]ports.Answer, n-cap(c.answers))...)
	}
	c.answers = c.answers[:n]
	return c.answers
}

// release forgets what the request held, so that the pool does not keep it alive.
func (c *call) release(pool *sync.Pool) {
	clear(c.items)
	clear(c.entries)
	clear(c.takes)
	clear(c.refunds)
	for i := range c.answers {
		c.answers[i] = ports.Answer{Decision: domain.Decision{Limits: c.answers[i].Decision.Limits[:0]}}
	}
	c.domain, c.traceID = "", ""
	c.items, c.entries = c.items[:0], c.entries[:0]
	c.takes, c.refunds = c.takes[:0], c.refunds[:0]
	pool.Put(c)
}
