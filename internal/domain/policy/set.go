package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// MaxPolicies is the most policies that one set can have.
const MaxPolicies = 100_000

// Set is a list of policies. The first policy that matches a request applies. Matching uses an index: its time
// hardly depends on the number of policies, and it does not allocate. A Set is immutable.
type Set struct {
	policies []*Policy
	named    map[string]*Policy
	shared   []*Shared
	http     httpIndex
	envoy    map[string]*descriptorNode // by domain
}

// NewSet compiles the policies. It needs at least one. shared must hold every shared limit that they use, and
// those limits must be in no other set. The error joins the errors of all policies.
func NewSet(policies []Policy, shared ...*Shared) (*Set, error) {
	s := &Set{named: make(map[string]*Policy, len(policies)), shared: slices.Clone(shared)}
	var errs []error
	if n := len(policies); n < 1 || n > MaxPolicies {
		errs = append(errs, invalid("policies", strconv.Itoa(n), "there must be from 1 to "+strconv.Itoa(MaxPolicies)+" of them"))
	}
	if n := len(shared); n > MaxShared {
		errs = append(errs, invalid("shared", strconv.Itoa(n), "there must be at most "+strconv.Itoa(MaxShared)+" of them"))
	}
	byName := make(map[string]*Shared, len(shared))
	for _, l := range shared {
		if byName[l.Name()] != nil {
			errs = append(errs, invalid("shared", strconv.Quote(l.Name()), "there are two shared limits of this name"))
		}
		byName[l.Name()] = l
	}
	for i := range policies {
		p := policies[i] // a copy, so that later changes by the caller have no effect
		err := p.Compile()
		if s.named[p.Name] != nil {
			err = errors.Join(err, invalid("name", strconv.Quote(p.Name), "there are two policies of this name"))
		}
		for name, l := range p.Shared {
			if byName[name] != l {
				err = errors.Join(err, invalid("limits", strconv.Quote(name), "is not one of the shared limits"))
				continue
			}
			l.own.Cost.Fixed = max(l.own.Cost.Fixed, p.Cost.Tokens())
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

func (s *Set) add(p *Policy) {
	order := int32(len(s.policies))
	s.policies = append(s.policies, p)
	s.named[p.Name] = p
	if p.Match.ForEnvoy() {
		nodeAt(&s.envoy, p.Match.Domain, newDescriptorNode).add(p.Match.Descriptor, order)
	} else {
		s.http.add(&p.Match, order)
	}
}

// All returns the policies in their order. The caller must not change the slice.
func (s *Set) All() []*Policy { return s.policies }

// Named returns the policy with that name, or nil.
func (s *Set) Named(name string) *Policy { return s.named[name] }

// AllShared returns the shared limits in their order, used or not. The caller must not change the slice.
func (s *Set) AllShared() []*Shared { return s.shared }

// SharedNamed returns the shared limit of that name, or nil.
func (s *Set) SharedNamed(name string) *Shared {
	if i := slices.IndexFunc(s.shared, func(l *Shared) bool { return l.Name() == name }); i >= 0 {
		return s.shared[i]
	}
	return nil
}

// Match returns the first policy that matches the request, or nil. The error is one of the request's Lookup, for a header on which the
// result depends, such as one that was sent twice.
func (s *Set) Match(req *Request) (*Policy, error) {
	var order int32
	var err error
	if req.Domain == "" {
		order, err = s.http.find(req)
	} else {
		order = s.envoy[req.Domain].find(req.Descriptor, noPolicy)
	}
	if err != nil || order == noPolicy {
		return nil, err
	}
	return s.policies[order], nil
}
