package app

import (
	"fmt"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// SinglePolicy is a policy source of one policy that applies to every request.
type SinglePolicy struct{ policy domain.Policy }

var _ ports.PolicySource = (*SinglePolicy)(nil)

// NewSinglePolicy refuses a policy that does not validate.
func NewSinglePolicy(p domain.Policy) (*SinglePolicy, error) {
	if err := p.Compile(); err != nil {
		return nil, err
	}
	return &SinglePolicy{policy: p}, nil
}

// Named implements ports.PolicySource.
func (s *SinglePolicy) Named(name string) (*domain.Policy, error) {
	if name != s.policy.Name {
		return nil, fmt.Errorf("%w: %q", ports.ErrUnknownPolicy, name)
	}
	return &s.policy, nil
}

// Match implements ports.PolicySource. A request of Envoy has no client that a policy for HTTP could count by.
func (s *SinglePolicy) Match(req *domain.Request) *domain.Policy {
	if req.Domain != "" && !s.policy.Match.ForEnvoy() {
		return nil
	}
	return &s.policy
}

// All lists the policy.
func (s *SinglePolicy) All() []*domain.Policy { return []*domain.Policy{&s.policy} }
