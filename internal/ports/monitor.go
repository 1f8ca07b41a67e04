package ports

import (
	"time"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

// Monitor returns the counts of decisions that the metrics expose. Implementations are safe for concurrent use.
type Monitor interface {
	// Totals returns the counts since the process started.
	Totals() Totals
}

// Totals are the counts of one process. They only grow.
type Totals struct {
	// Decisions has an entry per policy, outcome and store that occurred, sorted by policy.
	Decisions []DecisionCount
	// Latency is the time of the decisions, in seconds.
	Latency Histogram
}

// DecisionCount says how often one outcome occurred.
type DecisionCount struct {
	Policy string
	// Outcome is a decision.Outcome's text, or "shadow_denied" for a denial that shadow mode let pass.
	Outcome string
	Store   decision.StoreName
	Count   uint64
}

// TopSource reports the clients with the most requests and the most denials lately. Implementations are safe for concurrent
// use.
type TopSource interface {
	// Top returns at most n clients of each kind, for each policy that decided a request in the window.
	Top(n int) TopReport
}

// TopReport is about the last minute. The number of a client is an estimate: the true one is at most Count and at least
// Count - Error. The numbers of a policy are exact.
type TopReport struct {
	// Window is the length of the time that the report covers.
	Window time.Duration
	// Policies are sorted by name.
	Policies []TopPolicy
}

// TopPolicy is the report about one policy.
type TopPolicy struct {
	Policy string
	// Requests is the number of decisions. Denials is how many of them denied or blocked, or would have without shadow mode.
	Requests, Denials uint64
	// ByRequests and ByDenials are the clients with the most of each, in descending order.
	ByRequests, ByDenials []TopClient
}

// TopClient is one client of a [TopPolicy].
type TopClient struct {
	// Key and Source name the client as in ClientID. A long key is cut.
	Key, Source string
	Count       uint64
	Error       uint64
}
