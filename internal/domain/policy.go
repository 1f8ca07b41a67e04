package domain

import (
	"strconv"
)

// DefaultPolicyName is the policy that applies when a caller names none.
const DefaultPolicyName = "default"

// FailureMode says what a decision is while the store cannot decide.
type FailureMode string

// The failure modes.
const (
	FailOpen   FailureMode = "open"   // allow
	FailClosed FailureMode = "closed" // deny, with a status that says why
	FailLocal  FailureMode = "local"  // decide from this process's own memory
)

// Valid reports whether m is one of the three modes.
func (m FailureMode) Valid() bool { return m == FailOpen || m == FailClosed || m == FailLocal }

// Mode says what a policy's decisions do. The zero value is ModeEnforce.
type Mode uint8

// The modes.
const (
	ModeEnforce Mode = iota // a denial denies
	ModeShadow              // decides, takes, counts and logs, but lets pass
)

// ParseMode reads "enforce" or "shadow".
func ParseMode(s string) (Mode, error) {
	switch s {
	case "enforce":
		return ModeEnforce, nil
	case "shadow":
		return ModeShadow, nil
	}
	return 0, &FieldError{ErrInvalidPolicy, "mode", strconv.Quote(s), modeRule}
}

const modeRule = "must be enforce or shadow"

// String is the form that [ParseMode] reads.
func (m Mode) String() string {
	if m == ModeShadow {
		return "shadow"
	}
	return "enforce"
}

const (
	// MaxLimits is the most limits that one policy can have.
	MaxLimits = 32
	// MaxOverrides is the most overrides, and patterns of each kind, that one policy can have.
	MaxOverrides = 100_000
)

// Policy says whose requests count together, and against which limits. [Policy.Compile] makes it ready for use; from
// then on it is immutable. The zero value of each field but Name, Limits and OnStoreFailure is what most policies want.
type Policy struct {
	// Name is part of every bucket key.
	Name string
	// Match says which requests the policy applies to. The zero Match takes every HTTP request.
	Match Match
	// Key says what tells one client from another. Nil: the client's address.
	Key Key
	// Cost is what a request costs where the door does not know better; see Request.PolicyCost.
	Cost Cost
	// Limits are taken together or not at all.
	Limits []Limit
	// LimitKeys has the keys of limits that count by another key than the policy's, by the limit's name.
	LimitKeys map[string]Key
	// Overrides give some clients other limits; the first with a pattern that matches applies.
	Overrides []Override
	// Exempt are patterns of clients that are never limited: OutcomeExempt, and no bucket is touched.
	Exempt []string
	// Block are patterns of clients that never pass: OutcomeBlocked. Block goes before Exempt.
	Block []string
	// Mode says whether a denial denies.
	Mode Mode
	// OnStoreFailure applies while the store cannot decide.
	OnStoreFailure FailureMode
	// RefundOn are the statuses of an upstream's answer after which the tokens come back.
	RefundOn StatusSet

	compiled *compiled
}

// Override gives clients whose key matches one of the patterns limits of their own: those named stand for the policy's
// of the same name, the others stay. The patterns are those of [Policy.Exempt]: a text, in which one * may stand for any
// text; they see the value of the policy's own key, see [ListValue]. A client whose request had no such value, and who is
// counted by another one therefore, is met by the pattern * alone: nobody gets another client's rights by leaving the
// key out.
type Override struct {
	Keys   []string
	Limits []Limit
}

// Cost says what a request costs. The zero value is one token.
type Cost struct {
	// Fixed number of tokens; 0 is 1.
	Fixed Tokens
	// Header, in lower case, holds the cost, at least 1, where the request comes from a trusted proxy. Any other
	// request, and one without it, costs Fixed.
	Header string
}

// Tokens is the cost of a request that brings none.
func (c Cost) Tokens() Tokens { return max(c.Fixed, 1) }

// compiled is what deciding needs, worked out once.
type compiled struct {
	groups    []Group
	overrides []([]Group) // the groups of each override
	patterns  patternIndex
	needsOwn  bool
}

// Group is a bucket group: limits of one policy that share a key, and so are taken in one atomic step.
type Group struct {
	// Key of the group's buckets.
	Key Key
	// Limits of the group. They are shared by all requests, and read only.
	Limits []Limit
	// Places of the limits among the policy's: Limits[i] is at Places[i].
	Places []int
	// Own reports that Key is the policy's own key.
	Own bool
}
