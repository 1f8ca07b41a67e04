package ports

import "github.com/velocity-limiter/velocity/internal/domain"

// Observer is told what happens, for logs and metrics. It must not block, and must copy what it keeps: the
// pointers are valid during the call alone. Safe for concurrent use.
type Observer interface {
	// Decided is called once for each decision that took or tried to take tokens; not for peeks.
	Decided(req *domain.Request, d *domain.Decision)
	// StoreFailed is called for each decision that the store failed to make, before Decided.
	StoreFailed(policy string, mode domain.FailureMode, cause error)
}
