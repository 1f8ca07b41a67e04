package ports

import "github.com/velocity-limiter/velocity/internal/domain"

// PolicySource knows the policies in force. Safe for concurrent use; what it returns is immutable.
type PolicySource interface {
	// Named returns the policy of that name, or an error that wraps ErrUnknownPolicy.
	Named(name string) (*domain.Policy, error)
	// Match returns the first policy that applies to the request's method, host and path; nil if none does, and
	// the request is not limited.
	Match(req *domain.Request) *domain.Policy
}
