package ports

import "github.com/velocity-limiter/velocity/internal/domain"

// PolicySource knows the policies in force, all of them compiled. Safe for concurrent use; what it returns is immutable,
// and stays valid when other policies come into force.
type PolicySource interface {
	// Named returns the policy of that name, or an error that wraps ErrUnknownPolicy.
	Named(name string) (*domain.Policy, error)
	// Match returns the first policy that applies to the request's method, host and path or, where the request has a
	// Domain, to its domain and descriptor; nil if none does, and the request is not limited.
	Match(req *domain.Request) *domain.Policy
}
