package app

import (
	"errors"
	"net/netip"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// rulesFor finds what the policy says of a request, given its client. It notes the override that applies.
func (b *batchState) rulesFor(q *resolved, client string, missing bool) (*policy.Rules, error) {
	p, d := q.policy, &q.answer.Decision
	var rules *policy.Rules
	if p.HasConditions() {
		b.values.ignored = ""
		var err error
		if rules, err = p.RulesForRequest(client, missing, (*facts)(&b.values)); err != nil {
			return rules, err
		}
		if b.values.ignored != "" {
			d.IgnoredHeader = b.values.ignored
		}
	} else {
		rules = p.RulesFor(client, missing)
	}
	if rules.Override >= 0 {
		d.Override = &p.Overrides[rules.Override]
	}
	return rules, nil
}

// facts are what conditions may know of the request of a keyValues.
type facts keyValues

var _ policy.Facts = (*facts)(nil)

// Value implements policy.Facts. Headers are believed if the request is Trusted, or if the caller gave the value itself, as its key. A
// claim is verified. A value that a caller left out is one that the request does not have.
func (f *facts) Value(source clientkey.Source) (string, error) {
	for i := range f.n {
		if f.given[i].Source.Same(source) {
			value, _ := clientkey.RawListValue(f.given[i : i+1]) // of a secret source, too, since the caller gave it
			return value, nil
		}
	}
	if f.req.Lookup == nil {
		return "", nil
	}
	value, err := f.req.Lookup(source)
	if err != nil && errors.Is(err, domain.ErrNoValue) {
		return "", nil
	}
	if source.Kind == clientkey.SourceHeader && !f.req.Trusted {
		if value != "" || err != nil {
			f.ignored = source.Name
		}
		return "", nil
	}
	return value, err
}

// Elements implements policy.Facts.
func (f *facts) Elements(source clientkey.Source) []string {
	if f.req.Elements == nil || source.Kind != clientkey.SourceClaim {
		return nil
	}
	return f.req.Elements(source)
}

// Address implements policy.Facts.
func (f *facts) Address() netip.Addr { return f.address }
