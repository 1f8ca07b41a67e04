package grpcenvoy

import (
	"cmp"
	"context"
	"slices"
	"sync"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy/envoyconfig"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// call is the scratch memory of one request. Later requests reuse it.
type call struct {
	domain  string
	traceID string // for the log; empty if the call is not traced
	items   []item
	denied  bool                     // by a rule of zero
	entries []policy.DescriptorEntry // of all items, one after another
	takes   []policy.Request         // takes and peeks, which are decided atomically
	refunds []policy.Request         // sent after all takes have passed
	answers []ports.Answer           // of the takes, then of the refunds
}

// item is one descriptor.
type item struct {
	kind kind
	// rule is of the configuration, or made from a limit in the request. If it is nil, the policies decide.
	rule *envoyconfig.Rule
	// entries of the descriptor, a part of the call's.
	entries []policy.DescriptorEntry
	hits    hits
	// answer is the index of the limiter's answer, if the limiter was asked.
	answer int
}

// kind says who decides an item.
type kind uint8

const (
	byLimiter  kind = iota
	notLimited      // no rule applies, or another rule replaces it
	unlimited       // the rule limits nothing
	zero            // the rule lets no hit pass
)

// hits is the number of tokens that a descriptor asks for.
type hits struct {
	cost domain.Tokens
	// unset says that neither the descriptor nor the request has a number: it is one, or the cost of the policy.
	unset bool
	// refund gives the tokens back.
	refund bool
}

func hitsOf(r *rlsv3.RateLimitRequest, d *ratelimitv3.RateLimitDescriptor) hits {
	h := hits{cost: domain.Tokens(r.GetHitsAddend()), refund: d.GetIsNegativeHits()}
	if own := d.GetHitsAddend(); own != nil {
		h.cost = domain.Tokens(own.GetValue()) // 0 is a peek
	} else if h.cost == 0 {
		h.cost, h.unset = 1, true
	}
	return h
}

var noRules = new(envoyconfig.Rules)

// resolve finds the rule of each descriptor, and makes the requests for the limiter.
func (c *call) resolve(s *service, r *rlsv3.RateLimitRequest) error {
	c.domain = r.GetDomain()
	rules := noRules
	if s.rules != nil {
		rules = s.rules.Current() // once, so that a request sees either old rules or new ones
	}
	ruled := rules.Knows(c.domain)
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
			it.rule = rules.Find(c.domain, it.entries)
			it.kind = kindOf(it.rule)
		}
		c.items = append(c.items, it)
	}
	c.replace()
	c.makeRequests()
	return nil
}

func (c *call) entriesOf(d *ratelimitv3.RateLimitDescriptor) []policy.DescriptorEntry {
	first := len(c.entries)
	for _, e := range d.GetEntries() {
		c.entries = append(c.entries, policy.DescriptorEntry{Key: e.GetKey(), Value: e.GetValue()})
	}
	return c.entries[first:]
}

func kindOf(rule *envoyconfig.Rule) kind {
	switch {
	case rule == nil:
		return notLimited
	case rule.Unlimited:
		return unlimited
	case rule.Policy == nil:
		return zero
	default:
		return byLimiter
	}
}

// replace removes the rules whose names another rule of the request replaces. A rule that is itself replaced still replaces
// others. An unlimited rule stays.
func (c *call) replace() {
	for i := range c.items {
		rule := c.items[i].rule
		if rule == nil {
			continue
		}
		for j := range c.items {
			other := &c.items[j]
			if other.rule != nil && other.rule.Name != "" && other.kind != unlimited && slices.Contains(rule.Replaces, other.rule.Name) {
				other.kind = notLimited
			}
		}
	}
}

// makeRequests makes the requests for the limiter.
func (c *call) makeRequests() {
	c.denied = slices.ContainsFunc(c.items, func(it item) bool { return it.kind == zero && !it.passes() })
	for i := range c.items {
		it := &c.items[i]
		if it.kind != byLimiter {
			continue
		}
		req := policy.Request{Cost: it.hits.cost, PolicyCost: it.hits.unset, TraceID: c.traceID}
		if it.rule != nil {
			first := len(c.entries)
			c.entries = it.rule.Entries(c.entries, c.domain, it.entries)
			req.CallerPolicy, req.Descriptor, req.PolicyCost = it.rule.Policy, c.entries[first:], false
		} else {
			req.Domain, req.Descriptor = c.domain, it.entries
		}
		switch {
		case c.denied: // a rule of zero denies the request, and a denial takes and refunds nothing
			req.Op = domain.OpPeek
		case it.hits.refund && it.hits.cost > 0:
			it.answer = len(c.refunds)
			req.Op = domain.OpRefund
			c.refunds = append(c.refunds, req)
			continue
		}
		it.hits.refund = false
		it.answer = len(c.takes)
		c.takes = append(c.takes, req)
	}
}

// passes reports whether an item of kind zero passes.
func (it *item) passes() bool { return it.rule.Shadow || it.hits.cost == 0 || it.hits.refund }

// decide asks the limiter. It sends the refunds only if all takes pass. It returns an error only if nothing was taken: Envoy
// lets a request pass whose call ends with an error. So once the takes are decided, or a rule of zero denies the request, that
// is the answer, and a refund that fails is lost.
func (c *call) decide(ctx context.Context, limiter ports.Limiter) error {
	answers := c.answersFor(len(c.takes) + len(c.refunds))
	taken := answers[:len(c.takes)]
	switch len(c.takes) {
	case 0:
	case 1:
		limiter.DecideMany(ctx, c.takes, taken)
	default:
		limiter.DecideAtomic(ctx, c.takes, taken)
	}
	refused := c.denied
	var failed error
	for i := range taken {
		failed = cmp.Or(failed, taken[i].Err)
		refused = refused || taken[i].Err == nil && !taken[i].Decision.Allowed()
	}
	if failed != nil && !refused {
		return failed
	}
	if len(c.refunds) == 0 {
		return nil
	}
	if refused { // a denial takes nothing, so it refunds nothing
		for i := range c.refunds {
			c.refunds[i].Op = domain.OpPeek
		}
	}
	refunded := answers[len(c.takes):]
	limiter.DecideMany(ctx, c.refunds, refunded)
	for i := range refunded {
		if refunded[i].Err != nil && len(c.takes) == 0 {
			return refunded[i].Err
		}
	}
	return nil
}

// of returns the limiter's answer about an item. It may be the error of a refund.
func (c *call) of(it *item) *ports.Answer {
	if it.hits.refund {
		return &c.answers[len(c.takes)+it.answer]
	}
	return &c.answers[it.answer]
}

// answersFor returns n slots for answers. They keep the memory of earlier answers for reuse.
func (c *call) answersFor(n int) []ports.Answer {
	if n > cap(c.answers) {
		c.answers = append(c.answers[:cap(c.answers)], make([]ports.Answer, n-cap(c.answers))...)
	}
	c.answers = c.answers[:n]
	return c.answers
}

// release clears the references to the request and puts c back into the pool.
func (c *call) release(pool *sync.Pool) {
	clear(c.items)
	clear(c.entries)
	clear(c.takes)
	clear(c.refunds)
	for i := range c.answers {
		c.answers[i] = ports.Answer{Decision: decision.Decision{Limits: c.answers[i].Decision.Limits[:0]}}
	}
	c.domain, c.traceID, c.denied = "", "", false
	c.items, c.entries = c.items[:0], c.entries[:0]
	c.takes, c.refunds = c.takes[:0], c.refunds[:0]
	pool.Put(c)
}
