package ports

import "github.com/velocity-limiter/velocity/internal/domain"

// Monitor tells what has been decided, for the operator's page. What it counts is what the metrics expose. Safe for
// concurrent use.
type Monitor interface {
	// Totals since the process began.
	Totals() Totals
}

// Totals of one process. They only grow.
type Totals struct {
	// Decisions has an entry per policy, outcome and store that occurred, sorted by policy.
	Decisions []DecisionCount
	// Latency is the time that decisions took, in seconds.
	Latency Histogram
}

// DecisionCount is how often one outcome occurred.
type DecisionCount struct {
	Policy string
	// Outcome is a domain.Outcome's text, or "shadow_denied" for a denial that shadow mode let pass.
	Outcome string
	Store   domain.StoreName
	Count   uint64
}
