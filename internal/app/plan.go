package app

import (
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// plan finds out what a request comes to before any store is asked. It is true if a store is to be asked; else the
// answer is complete.
func (r *RateLimiter) plan(w *round, index int, req *domain.Request, a *ports.Answer) bool {
	policy, err := r.policyOf(req)
	if err != nil {
		a.Err = err
		return false
	}
	if policy == nil {
		a.Decision.Outcome = domain.OutcomeAllowed
		a.Err = checkCost(req.Op, req.Cost) // the request is wrong all the same
		return false
	}
	p := plan{index: index, policy: policy}
	if p.cost, err = costOf(req, policy); err != nil {
		a.Err = err
		return false
	}
	rules, err := w.place(&p, req)
	switch {
	case err != nil:
		a.Err = err
		w.takes = w.takes[:p.first]
	case rules.Blocked || rules.Exempt:
		r.answerWithoutLimits(req, &p, rules, a)
	default:
		w.plans = append(w.plans, p)
		return true
	}
	return false
}

// policyOf returns nil where no policy applies. What it returns is compiled, whoever brings it.
func (r *RateLimiter) policyOf(req *domain.Request) (*domain.Policy, error) {
	switch {
	case req.Own != nil && !req.Own.Compiled():
		return nil, &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "policy", Reason: "was not compiled"}
	case req.Own != nil:
		return req.Own, nil
	case req.Policy != "":
		return r.named(req.Policy)
	}
	return ready(r.policies.Match(req))
}

func (r *RateLimiter) named(name string) (*domain.Policy, error) {
	policy, err := r.policies.Named(name)
	if err != nil {
		return nil, err
	}
	return ready(policy)
}

// ready refuses a policy of the source that was not compiled, which would be a mistake of ours.
func ready(policy *domain.Policy) (*domain.Policy, error) {
	if policy != nil && !policy.Compiled() {
		return nil, &domain.FieldError{Kind: domain.ErrInvalidPolicy, Field: "policy", Value: strconv.Quote(policy.Name), Reason: "was not compiled"}
	}
	return policy, nil
}

func checkCost(op domain.Op, cost domain.Tokens) error {
	if op == domain.OpPeek || op == domain.OpReset {
		return nil
	}
	return op.CheckCost(cost)
}

// costOf is what the request says or, where the door leaves it to the policy, what that says. A header's word counts
// only if a trusted proxy has sent it.
func costOf(req *domain.Request, policy *domain.Policy) (domain.Tokens, error) {
	if !req.PolicyCost {
		return req.Cost, checkCost(req.Op, req.Cost)
	}
	header := policy.Cost.Header
	if header == "" || !req.Trusted || req.Lookup == nil {
		return policy.Cost.Tokens(), nil
	}
	text, err := req.Lookup(domain.KeySource{Kind: domain.SourceHeader, Name: header})
	switch {
	case err != nil:
		return 0, err
	case text == "":
		return policy.Cost.Tokens(), nil
	}
	cost, err := strconv.ParseInt(text, 10, 64)
	if err != nil && strings.Trim(text, "0123456789") != "" {
		return 0, &domain.FieldError{Kind: domain.ErrMalformedRequest, Field: header, Reason: "must be the cost, a whole number"}
	}
	if err != nil || cost < 1 || domain.Tokens(cost) > domain.MaxCost {
		return 0, &domain.FieldError{
			Kind: domain.ErrInvalidRequest, Field: header,
			Reason: "must be a cost from 1 to " + strconv.FormatInt(int64(domain.MaxCost), 10),
		}
	}
	return domain.Tokens(cost), nil
}

// place finds the client and adds a take for each bucket group.
func (w *round) place(p *plan, req *domain.Request) (domain.Rules, error) {
	p.first = len(w.takes)
	if err := w.finder.start(req, p.policy); err != nil {
		return domain.Rules{}, err
	}
	var missing bool
	var err error
	own := w.finder.own
	if w.parts, missing, err = w.finder.parts(w.parts[:0], own); err != nil {
		if p.policy.NeedsOwnKey() {
			return domain.Rules{}, err
		}
		w.parts, missing = w.parts[:0], false // no limit counts by it
	}
	client := ""
	if len(w.parts) > 0 {
		client = domain.ListValue(w.parts)
	}
	ownParts := len(w.parts)
	rules := p.policy.RulesFor(client, missing)
	p.groups, p.keyMissing, p.byAddress = rules.Groups, missing, missing && len(own) == 1
	var key, ownKey domain.BucketKey
	for i := range p.groups {
		g := &p.groups[i]
		if g.Own {
			ownKey = domain.NewListKey(p.policy.Name, w.parts[:ownParts])
			key = ownKey
		} else {
			if w.parts, missing, err = w.finder.parts(w.parts[:ownParts], g.Key); err != nil {
				return rules, err
			}
			key = domain.NewListKey(p.policy.Name, w.parts[ownParts:])
			p.keyMissing = p.keyMissing || missing
		}
		w.takes = append(w.takes, ports.TakeRequest{Op: req.Op, Key: key, Limits: g.Limits, Cost: p.cost})
	}
	if p.client = client; ownParts == 1 { // that of several is a text of its own
		p.client = keep(client, ownKey)
	}
	p.end = len(w.takes)
	w.linked = w.linked || p.end-p.first > 1
	return rules, nil
}

// answerWithoutLimits says what the policy's lists say.
func (r *RateLimiter) answerWithoutLimits(req *domain.Request, p *plan, rules domain.Rules, a *ports.Answer) {
	d := &a.Decision
	p.describe(d)
	d.Store = domain.StorePolicy
	d.Outcome = domain.OutcomeExempt
	if rules.Blocked {
		d.Outcome = domain.OutcomeBlocked
	}
	if req.Op == domain.OpTake && p.cost > 0 {
		r.observer.Decided(req, d)
	}
}

// describe fills in what does not depend on the store.
func (p *plan) describe(d *domain.Decision) {
	d.By, d.Policy, d.Shadow = p.policy, p.policy.Name, p.policy.Mode == domain.ModeShadow
	d.Client, d.KeyMissing, d.ClientIsAddress, d.Cost = p.client, p.keyMissing, p.byAddress, p.cost
}
