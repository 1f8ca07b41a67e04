package simulate

import (
	"time"

	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

// Result is the result of a replay.
type Result struct {
	// Reports has one report for each side.
	Reports []*Report `json:"reports"`
	// Changes from the first side to the second; nil if there is one side.
	Changes *Changes `json:"changes,omitempty"`
}

// Report is what one set of policies would have decided.
type Report struct {
	Counts
	// From and To are the times of the first and the last request; zero if there was none.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	// Unlimited counts requests that no policy matched.
	Unlimited int `json:"unlimited"`
	// MissingKey counts requests that the service would have refused because they have no key.
	MissingKey int `json:"missing_key,omitempty"`
	// Refused counts requests that the service would have refused as malformed. Refusals has the first of them.
	Refused  int       `json:"refused"`
	Refusals []Refusal `json:"refusals,omitempty"`
	// Policies in the order of the file.
	Policies []*PolicyReport `json:"policies"`
	// Series counts the requests over time.
	Series Series `json:"series"`
}

// Counts of requests.
type Counts struct {
	Requests int `json:"requests"`
	Allowed  int `json:"allowed"`
	Denied   int `json:"denied"`
	Blocked  int `json:"blocked"`
	Exempt   int `json:"exempt"`
}

// DeniedShare returns the fraction of the requests that would not have passed.
func (c *Counts) DeniedShare() float64 {
	if c.Requests == 0 {
		return 0
	}
	return float64(c.Denied+c.Blocked) / float64(c.Requests)
}

func (c *Counts) add(outcome decision.Outcome) {
	c.Requests++
	switch outcome {
	case decision.OutcomeAllowed:
		c.Allowed++
	case decision.OutcomeExempt:
		c.Exempt++
	case decision.OutcomeBlocked:
		c.Blocked++
	default:
		c.Denied++
	}
}

// passes reports whether a request would have passed, were no policy in shadow mode.
func passes(outcome decision.Outcome) bool {
	return outcome == decision.OutcomeAllowed || outcome == decision.OutcomeExempt
}

// Refusal is a request that the service would have refused.
type Refusal struct {
	Log    string `json:"log"`
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

// PolicyReport is what one policy would have decided.
type PolicyReport struct {
	Name string `json:"name"`
	Mode string `json:"mode"`
	Counts
	// Share is DeniedShare.
	Share float64 `json:"denied_share"`
	// KeyMissing counts requests without a value for the key, which count by address.
	KeyMissing int `json:"key_missing"`
	// Refunded counts requests whose tokens were refunded for their status.
	Refunded int `json:"refunded"`
	// Waited counts the allowed requests that max_wait would have made wait, LongestWaitMS is the longest such time, rounded up.
	Waited        int   `json:"waited"`
	LongestWaitMS int64 `json:"longest_wait_ms"`
	// Clients counts the clients, ClientsDenied those with at least one request that would not have passed.
	Clients       int `json:"clients"`
	ClientsDenied int `json:"clients_denied"`
	// FirstDenied and LastDenied are the times of the first and the last denial; zero if there was none.
	FirstDenied time.Time `json:"first_denied,omitzero"`
	LastDenied  time.Time `json:"last_denied,omitzero"`
	// BusiestMinute had the most requests, WorstMinute the most denials. Among equal minutes, it is the first.
	BusiestMinute Minute `json:"busiest_minute,omitzero"`
	WorstMinute   Minute `json:"worst_minute,omitzero"`
	// Limits in the order of the policy.
	Limits []LimitReport `json:"limits"`
	// Worst are the clients with the most denials.
	Worst []ClientReport `json:"worst_clients,omitempty"`
}

// Minute is one minute of UTC.
type Minute struct {
	Start    time.Time `json:"start"`
	Requests int       `json:"requests"`
	Denied   int       `json:"denied"`
}

// LimitReport counts the requests that a limit denied. Several limits may deny the same request.
type LimitReport struct {
	Name   string `json:"name"`
	Denied int    `json:"denied"`
	// NotChecked says that this is a concurrency limit: how many requests it would have denied is not known.
	NotChecked bool `json:"not_checked,omitzero"`
}

// ClientReport is one client under one policy.
type ClientReport struct {
	Client   string `json:"client"`
	Requests int    `json:"requests"`
	Denied   int    `json:"denied"`
	// First and Last are the times of the first and the last denial.
	First time.Time `json:"first_denied"`
	Last  time.Time `json:"last_denied"`
}

// Change counts the requests that only the first side allows, as NewlyDenied, and those that only the second allows.
type Change struct {
	NewlyDenied  int `json:"newly_denied"`
	NewlyAllowed int `json:"newly_allowed"`
}

func (c *Change) add(other *Change) {
	c.NewlyDenied += other.NewlyDenied
	c.NewlyAllowed += other.NewlyAllowed
}

// Changes are the differences of the second side from the first.
type Changes struct {
	Change
	// ClientsNewlyDenied and ClientsNewlyAllowed count the clients with at least one such request.
	ClientsNewlyDenied  int `json:"clients_newly_denied"`
	ClientsNewlyAllowed int `json:"clients_newly_allowed"`
	// Policies of both sides. A change belongs to the policy that denies.
	Policies []PolicyChange `json:"policies"`
	// Clients with the most changes.
	Clients []ClientChange `json:"clients,omitempty"`
}

// PolicyChange is what changes for the policy of one name. Before or After is nil if that side has no such policy.
type PolicyChange struct {
	Name   string  `json:"name"`
	Before *Counts `json:"before,omitempty"`
	After  *Counts `json:"after,omitempty"`
	Change
}

// ClientChange is what changes for one client under the policy that denies it.
type ClientChange struct {
	Policy string `json:"policy"`
	Client string `json:"client"`
	Change
}
