package domain

import (
	"errors"
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

// MaxLimits is the most limits that one policy can have: all of them are taken in one atomic step.
const MaxLimits = 32

// Policy says whose requests count together, and against which limits. It is immutable once in use.
type Policy struct {
	// Name is part of every bucket key.
	Name string
	// Key says what tells one client from another.
	Key KeySource
	// Limits are taken together or not at all.
	Limits []Limit
	// OnStoreFailure applies while the store cannot decide.
	OnStoreFailure FailureMode
}

// Validate reports every violation at once; each is a [FieldError] of [ErrInvalidPolicy] or [ErrInvalidLimit].
func (p *Policy) Validate() error {
	var errs []error
	bad := func(field, value, reason string) {
		errs = append(errs, &FieldError{ErrInvalidPolicy, field, value, reason})
	}
	if !ValidName(p.Name) {
		bad("name", strconv.Quote(p.Name), nameRule)
	}
	if !p.Key.valid() {
		bad("key", strconv.Quote(p.Key.String()), keyRule)
	}
	if n := len(p.Limits); n < 1 || n > MaxLimits {
		bad("limits", strconv.Itoa(n), "there must be from 1 to "+strconv.Itoa(MaxLimits)+" of them")
	}
	seen := make(map[string]bool, len(p.Limits))
	for i := range p.Limits {
		l := &p.Limits[i]
		if l.IsZero() {
			bad("limits", strconv.Itoa(i), "is a zero Limit")
		} else if seen[l.name] {
			bad("limits", strconv.Quote(l.name), "there are two limits of this name")
		}
		seen[l.name] = true
	}
	if !p.OnStoreFailure.Valid() {
		bad("on_store_failure", strconv.Quote(string(p.OnStoreFailure)), "must be open, closed or local")
	}
	return errors.Join(errs...)
}
