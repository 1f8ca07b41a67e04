package simulate

import (
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Result is what a replay found.
type Result struct {
	// Reports has one report for each side.
	Reports []*Report `json:"reports"`
	// Changes from the first side to the second; nil if there is one side.
	Changes *Changes `json:"changes,omitempty"`
}

// Report says what one set of policies would have done.
type Report struct {
	Counts
	// From and To are the times of the first and the last request; zero if there was none.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	// Unlimited is how many requests no policy matched.
	Unlimited int `json:"unlimited"`
	// Refused is how many requests a door would have refused as malformed, and Refusals are the first of them.
	Refused  int       `json:"refused"`
	Refusals []Refusal `json:"refusals,omitempty"`
	// Policies in the order of the file.
	Policies []*PolicyReport `json:"policies"`
	// Series is the course over time.
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

// DeniedShare is the part of the requests that would not have passed, from 0 to 1.
func (c *Counts) DeniedShare() float64 {
	if c.Requests == 0 {
		return 0
	}
	return float64(c.Denied+c.Blocked) / float64(c.Requests)
}

func (c *Counts) add(outcome domain.Outcome) {
	c.Requests++
	switch outcome {
	case domain.OutcomeAllowed:
		c.Allowed++
	case domain.OutcomeExempt:
		c.Exempt++
	case domain.OutcomeBlocked:
		c.Blocked++
	default:
		c.Denied++
	}
}

// passes reports whether a request would have passed, were no policy in shadow mode.
func passes(outcome domain.Outcome) bool {
	return outcome == domain.OutcomeAllowed || outcome == domain.OutcomeExempt
}

// Refusal is a request that a door would have refused.
type Refusal struct {
	Log    string `json:"log"`
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

// PolicyReport says what one policy would have done.
type PolicyReport struct {
	Name string `json:"name"`
	Mode string `json:"mode"`
	Counts
	// Share is DeniedShare.
	Share float64 `json:"denied_share"`
	// KeyMissing is how many requests had no value for the key, so that their address stood in.
	KeyMissing int `json:"key_missing"`
	// Refunded is how many requests had their tokens given back, for their status.
	Refunded int `json:"refunded"`
	// Clients is how many there were, ClientsDenied how many of them did not always pass.
	Clients       int `json:"clients"`
	ClientsDenied int `json:"clients_denied"`
	// FirstDenied and LastDenied are when; zero if none was denied.
	FirstDenied time.Time `json:"first_denied,omitzero"`
	LastDenied  time.Time `json:"last_denied,omitzero"`
	// BusiestMinute had the most requests, WorstMinute the most denials; of equals the first.
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

// LimitReport says how many requests a limit denied. Several limits may deny one request.
type LimitReport struct {
	Name   string `json:"name"`
	Denied int    `json:"denied"`
}

// ClientReport is one client under one policy.
type ClientReport struct {
	Client   string `json:"client"`
	Requests int    `json:"requests"`
	Denied   int    `json:"denied"`
	// First and Last denial.
	First time.Time `json:"first_denied"`
	Last  time.Time `json:"last_denied"`
}

// Changes are what the second side does otherwise than the first.
type Changes struct {
	// NewlyDenied pass the first side only, NewlyAllowed the second only.
	NewlyDenied  int `json:"newly_denied"`
	NewlyAllowed int `json:"newly_allowed"`
	// ClientsNewlyDenied and ClientsNewlyAllowed have at least one such request.
	ClientsNewlyDenied  int `json:"clients_newly_denied"`
	ClientsNewlyAllowed int `json:"clients_newly_allowed"`
	// Policies of both sides. A change belongs to the policy that denies.
	Policies []PolicyChange `json:"policies"`
	// Clients with the most changes.
	Clients []ClientChange `json:"clients,omitempty"`
}

// PolicyChange is what changes under one name; a side that has no such policy has no counts.
type PolicyChange struct {
	Name         string  `json:"name"`
	Before       *Counts `json:"before,omitempty"`
	After        *Counts `json:"after,omitempty"`
	NewlyDenied  int     `json:"newly_denied"`
	NewlyAllowed int     `json:"newly_allowed"`
}

// ClientChange is what changes for one client of the policy that denies it.
type ClientChange struct {
	Policy       string `json:"policy"`
	Client       string `json:"client"`
	NewlyDenied  int    `json:"newly_denied"`
	NewlyAllowed int    `json:"newly_allowed"`
}
