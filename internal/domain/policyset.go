package domain

import (
	"errors"
	"fmt"
	"strconv"
)

// MaxPolicies is the most policies that one set can have.
const MaxPolicies = 100_000

// PolicySet is a list of policies in which the first that matches a request applies. The match is looked up in an
// index, so that its time hardly depends on how many policies there are, and allocates nothing. Immutable.
type PolicySet struct {
	policies []*Policy
	named    map[string]*Policy
	http     httpIndex
	envoy    map[string]*descriptorNode // by domain
}

// NewPolicySet compiles the policies, of which there must be one at least. The error joins what is wrong with each.
func NewPolicySet(policies []Policy) (*PolicySet, error) {
	s := &PolicySet{named: make(map[string]*Policy, len(policies)), envoy: map[string]*descriptorNode{}}
	var errs []error
	if n := len(policies); n < 1 || n > MaxPolicies {
		errs = append(errs, &FieldError{
			ErrInvalidPolicy, "policies", strconv.Itoa(n), "there must be from 1 to " + strconv.Itoa(MaxPolicies) + " of them",
		})
	}
	for i := range policies {
		p := policies[i] // a copy, which nobody can change behind our back
		err := p.Compile()
		if s.named[p.Name] != nil {
			err = errors.Join(err, &FieldError{ErrInvalidPolicy, "name", strconv.Quote(p.Name), "there are two policies of this name"})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("policies[%d]: %w", i, err))
			continue
		}
		s.add(&p)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *PolicySet) add(p *Policy) {
	order := int32(len(s.policies))
	s.policies = append(s.policies, p)
	s.named[p.Name] = p
	if !p.Match.ForEnvoy() {
		s.http.add(&p.Match, order)
		return
	}
	root := s.envoy[p.Match.Domain]
	if root == nil {
		root = newDescriptorNode()
		s.envoy[p.Match.Domain] = root
	}
	root.add(p.Match.Descriptor, order)
}

// All returns the policies in their order. The slice is not to be changed.
func (s *PolicySet) All() []*Policy { return s.policies }

// Named returns the policy of that name; nil if there is none.
func (s *PolicySet) Named(name string) *Policy { return s.named[name] }

// Match returns the first policy that applies to a request; nil if none does.
func (s *PolicySet) Match(req *Request) *Policy {
	order := noPolicy
	if req.Domain == "" {
		order = s.http.find(req)
	} else if root := s.envoy[req.Domain]; root != nil {
		order = root.find(req.Descriptor, noPolicy)
	}
	if order == noPolicy {
		return nil
	}
	return s.policies[order]
}
