package app

import (
	"fmt"

	"github.com/velocity-limiter/velocity/internal/domain/policy"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// SinglePolicy is a policy source of one policy that applies to every request.
type SinglePolicy struct{ policy policy.Policy }

var _ ports.PolicySource = (*SinglePolicy)(nil)

// NewSinglePolicy compiles the policy. It returns an error if the policy is not valid.
func NewSinglePolicy(p policy.Policy) (*SinglePolicy, error) {
	if err := p.Compile(); err != nil {
		return nil, err
	}
	return &SinglePolicy{policy: p}, nil
}

// Named implements ports.PolicySource.
func (s *SinglePolicy) Named(name string) (*policy.Policy, error) {
	if name != s.policy.Name {
		return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, name)
	}
	return &s.policy, nil
}

// Match implements ports.PolicySource. A request from Envoy does not match a policy for HTTP, whose key it cannot have.
func (s *SinglePolicy) Match(req *policy.Request) (*policy.Policy, error) {
	if req.Domain != "" && !s.policy.Match.ForEnvoy() {
		return nil, nil
	}
	return &s.policy, nil
}

// Shared implements ports.PolicySource.
func (s *SinglePolicy) Shared(name string) (*policy.Shared, error) {
	if shared := s.policy.Shared[name]; shared != nil {
		return shared, nil
	}
	return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, policy.SharedPrefix+name)
}

// All returns the policy.
func (s *SinglePolicy) All() []*policy.Policy { return []*policy.Policy{&s.policy} }
