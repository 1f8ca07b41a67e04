package app

import (
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// resolve finds the policy, the client, the cost and the takes of a request. It writes them to the batch and to the answer.
// It reports false if no store is needed; then the answer is complete.
func (r *RateLimiter) resolve(b *batchState, req *policy.Request, a *ports.Answer) bool {
	p, err := r.policyOf(req)
	if err != nil {
		a.Err = err
		return false
	}
	if p == nil { // the request is not limited, but its cost must be valid all the same
		a.Decision.Outcome, a.Err = decision.OutcomeAllowed, checkCost(req.Op, req.Cost)
		return false
	}
	cost, err := costOf(req, p, &a.Decision)
	if err != nil {
		a.Err = err
		return false
	}
	q := resolved{req: req, answer: a, policy: p, first: len(b.takes)}
	rules, err := r.resolveKeys(b, &q, cost)
	if err == nil && rules.Groups != nil {
		err = r.prepareHold(b, &q, cost)
	}
	if err != nil {
		a.Err = err
		b.takes = b.takes[:q.first]
		return false
	}
	d := &a.Decision
	d.AppliedPolicy, d.Policy, d.Shadow, d.Cost = p, p.Name, p.Mode == policy.ModeShadow, cost
	switch {
	case rules.Blocked:
		d.Store, d.Outcome = decision.StorePolicy, decision.OutcomeBlocked
	case rules.Exempt:
		d.Store, d.Outcome = decision.StorePolicy, decision.OutcomeExempt
	default:
		b.resolved = append(b.resolved, q)
		return true
	}
	r.observe(req, d)
	return false
}

// policyOf returns the policy of a request, or nil if none applies.
func (r *RateLimiter) policyOf(req *policy.Request) (*policy.Policy, error) {
	switch {
	case req.CallerPolicy != nil && !req.CallerPolicy.Compiled():
		return nil, &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "policy", Reason: "was not compiled"}
	case req.CallerPolicy != nil:
		return req.CallerPolicy, nil
	case req.Policy != "":
		return r.named(req.Policy)
	}
	p, err := r.policies.Match(req)
	if err != nil {
		return nil, err
	}
	return checkCompiled(p)
}

func (r *RateLimiter) named(name string) (*policy.Policy, error) {
	p, err := r.policies.Named(name)
	if err != nil {
		return nil, err
	}
	return checkCompiled(p)
}

// checkCompiled refuses a policy that its source forgot to compile.
func checkCompiled(p *policy.Policy) (*policy.Policy, error) {
	if p != nil && !p.Compiled() {
		return nil, &domain.FieldError{Kind: domain.ErrInvalidPolicy, Field: "policy", Value: strconv.Quote(p.Name), Reason: "was not compiled"}
	}
	return p, nil
}

// policyClient is the client of a request by the policy's key.
type policyClient struct {
	parts   []clientkey.Part // none if the key cannot be read and nothing counts by it
	missing bool             // the request has no value for a part of the key
	key     clientkey.BucketKey
}

// bucket returns the key of the client's buckets.
func (c *policyClient) bucket(p *policy.Policy) clientkey.BucketKey {
	if c.key == "" {
		c.key = clientkey.NewListBucketKey(p.Name, c.parts)
	}
	return c.key
}

// exemptPreflight are the rules for a request that asks what it may send, where the policy lets those pass.
var exemptPreflight = policy.Rules{Exempt: true, Override: -1}

// resolveKeys finds the client, and adds a take for each bucket group. After an error some takes may have been added, and the
// answer is as before.
func (r *RateLimiter) resolveKeys(b *batchState, q *resolved, cost domain.Tokens) (*policy.Rules, error) {
	c, err := r.clientOfRequest(b, q)
	if err != nil {
		return nil, err
	}
	client := ""
	if len(c.parts) > 0 {
		client = clientkey.ListValue(c.parts)
	}
	rules, err := r.clientRules(b, q, &c, client)
	if err != nil {
		return rules, err
	}
	if q.policy.SkipPreflight && rules.Groups != nil && q.req.IsPreflight() {
		rules = &exemptPreflight
	}
	if refusesKey(q.policy, c.missing) && rules.Groups != nil {
		return rules, &domain.FieldError{
			Kind: domain.ErrMissingKey, Field: b.values.policyKey.String(), Reason: "must be sent: requests are counted by it",
		}
	}
	q.groups, q.noKey, q.overrideID = rules.Groups, c.missing, q.policy.OverrideID(rules.Override)
	usedFallback, err := r.addTakes(b, q, &c, cost)
	if err == nil && q.hasConcurrency {
		err = b.noteSharedClients(q, &c)
	}
	if err != nil {
		return rules, err
	}
	if len(c.parts) == 1 { // of several parts, ListValue has made a new string
		client = cloneIfNeeded(client, c.key)
	}
	d := &q.answer.Decision
	d.Client, d.UsedFallbackKey, d.ClientIsAddress = client, usedFallback, c.missing && len(b.values.policyKey) == 1
	return rules, nil
}

// clientOfRequest finds the client by the policy's key.
func (r *RateLimiter) clientOfRequest(b *batchState, q *resolved) (c policyClient, err error) {
	if err := b.values.start(q.req, q.policy); err != nil {
		return c, err
	}
	b.parts, c.missing, err = b.values.parts(b.parts[:0], b.values.policyKey)
	if err != nil {
		// A key that cannot be read may be one that an override at run time blocks.
		needed := q.policy.NeedsPolicyKey() || !b.values.absent && r.hasOverrides(q.policy.Name)
		if c.missing = refusesKey(q.policy, c.missing); needed && !c.missing {
			return c, err
		}
		b.parts = b.parts[:0] // nothing counts by the policy's key
	}
	c.parts = b.parts
	return c, nil
}

// refusesKey reports whether a policy refuses a request, given whether its key is missing.
func refusesKey(p *policy.Policy, missing bool) bool {
	return missing && p.MissingKey == policy.MissingKeyRefuse && p.Mode != policy.ModeShadow
}

// clientRules returns the rules for a client, given also as it is listed. It notes whether a limit may be a concurrency limit.
func (r *RateLimiter) clientRules(b *batchState, q *resolved, c *policyClient, client string) (*policy.Rules, error) {
	q.hasConcurrency = q.policy.HasConcurrency()
	if len(c.parts) > 0 && r.mayHaveOverride(q.policy) {
		if o := r.overrideRules(q.policy, c.bucket(q.policy)); o != nil {
			q.hasConcurrency = q.hasConcurrency || o.HasConcurrency
			return &o.Rules, nil
		}
	}
	return b.rulesFor(q, rawClient(client, c.parts), c.missing)
}

// addTakes adds a take for each bucket group. usedFallback reports that the client's address took the place of a value that the request
// does not have.
func (r *RateLimiter) addTakes(b *batchState, q *resolved, c *policyClient, cost domain.Tokens) (usedFallback bool, err error) {
	usedFallback = c.missing
	for i := range q.groups {
		g := &q.groups[i]
		op, limits, key := q.req.Op, g.Limits, clientkey.BucketKey("")
		switch {
		case g.FixedKey != "":
			key = g.FixedKey
		case g.ByPolicyKey:
			key = c.bucket(q.policy)
		default:
			parts, missing, err := b.partsOf(g, c)
			if err != nil {
				return false, err
			}
			key = clientkey.NewListBucketKey(g.Owner, parts)
			limits = r.limitsFor(g, key, parts, missing)
			usedFallback = usedFallback || missing
			if has, _ := hasConcurrency(limits); has { // by an override at run time, too
				q.hasConcurrency = true
			}
		}
		if g.Shared != nil && q.policy.Mode == policy.ModeShadow {
			op = domain.OpPeek // what a policy in shadow mode spent would be missing for the policies that enforce
		}
		b.takes = append(b.takes, ports.TakeRequest{Op: op, Key: key, Limits: limits, Cost: cost, TakenAt: q.req.TakenAt})
	}
	q.end = len(b.takes)
	b.multiKey = b.multiKey || q.end-q.first > 1
	return usedFallback, nil
}

// partsOf returns the parts of the key of a group that does not count by the policy's key. They are valid until the next call.
func (b *batchState) partsOf(g *policy.Group, c *policyClient) (parts []clientkey.Part, missing bool, err error) {
	n := len(c.parts)
	b.parts, missing, err = b.values.parts(b.parts[:n], g.Key)
	return b.parts[n:], missing, err
}

// noteSharedClients notes the clients of the shared limits, which the text of a permit needs.
func (b *batchState) noteSharedClients(q *resolved, c *policyClient) error {
	q.groupClients = make([]groupClient, len(q.groups))
	for i := range q.groups {
		g := &q.groups[i]
		if g.Shared == nil {
			continue
		}
		parts, missing, err := b.partsOf(g, c)
		if err != nil {
			return err
		}
		q.groupClients[i] = groupClient{
			strings.Clone(permitClient(clientkey.ListValue(parts))), missing, g.Shared.Policy().OverrideID(g.OverrideFor(parts, missing)),
		}
	}
	return nil
}
