package override

import (
	"sync"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// Rules are what an override means under one policy as it is now. They are immutable.
type Rules struct {
	// Rules are those of the policy, with the override in place of all that its file says of the client.
	policy.Rules
	// Applies reports whether the override changes anything. It does not if none of its limits fits the policy.
	Applies bool
	// HasConcurrency reports whether a limit of the override is of domain.KindConcurrency.
	HasConcurrency bool
	// Unfit says which parts of the override do not fit the policy, and are ignored. Nil: all fit.
	Unfit  error
	policy *policy.Policy
}

// rulesUnder returns what an effect, given by its text, means under a policy.
func rulesUnder(p *policy.Policy, text string) *Rules {
	r := &Rules{policy: p, Rules: policy.Rules{Override: -1}}
	effect, err := ParseEffect(text)
	if err != nil {
		r.Unfit = err
		return r
	}
	limits, err := effect.LimitsUnder(p)
	r.Unfit = err
	if err == nil && (effect.Exempt || effect.Block) {
		r.Applies, r.Exempt, r.Blocked = true, effect.Exempt, effect.Block
		return r
	}
	if r.Applies = len(limits) > 0; r.Applies {
		r.Groups = p.GroupsWith(limits)
	}
	for i := range limits {
		r.HasConcurrency = r.HasConcurrency || limits[i].Kind() == domain.KindConcurrency
	}
	return r
}

// Fits returns an error that says which parts of an effect, given by its text, do not fit a policy; nil if all do.
func Fits(p *policy.Policy, text string) error {
	effect, err := ParseEffect(text)
	if err == nil {
		_, err = effect.LimitsUnder(p)
	}
	return err
}

// Rules returns what an override of these terms means under its policy. isNew reports whether that was found out just now.
func (t *Table) Rules(terms *Terms, p *policy.Policy) (rules *Rules, isNew bool) {
	if rules := terms.effect.rules.Load(); rules != nil && rules.policy == p {
		return rules, false
	}
	return t.rules.compile(terms.effect, p), true
}

// maxRules bounds the memory of compiled rules, some 300 bytes each. Beyond it the oldest are compiled again when they are needed.
const maxRules = 16_384

// rulesCache compiles rules when they are first needed, and remembers which effects have some.
type rulesCache struct {
	mu   sync.Mutex
	have []*effect // a ring
	next int
}

func (c *rulesCache) compile(f *effect, p *policy.Policy) *Rules {
	rules := rulesUnder(p, f.text)
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.rules.Swap(rules) != nil {
		return rules // it is in the ring already
	}
	if len(c.have) < maxRules {
		c.have = append(c.have, f)
		return rules
	}
	c.have[c.next].rules.Store(nil)
	c.have[c.next], c.next = f, (c.next+1)%maxRules
	return rules
}
