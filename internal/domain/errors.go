package domain

import (
	"errors"
	"fmt"
)

var (
	// ErrInvalidLimit is wrapped by every error that refuses a limit or a rate.
	ErrInvalidLimit = errors.New("invalid limit")
	// ErrInvalidPolicy is wrapped by every error that refuses a policy.
	ErrInvalidPolicy = errors.New("invalid policy")
	// ErrInvalidRequest is wrapped by every error that refuses a request before a limit was asked.
	ErrInvalidRequest = errors.New("invalid request")
	// ErrMalformedRequest is wrapped by every error that refuses a request because a part of it cannot be read.
	ErrMalformedRequest = errors.New("malformed request")
	// ErrNoValue is what a request's Lookup returns where a value is needed: no address is to stand in for it.
	ErrNoValue = errors.New("the request has no such value")
	// ErrDebtExceeded refuses a charge that would take a bucket below -2^52 credits or below what 100 years
	// refill. Nothing was charged.
	ErrDebtExceeded = errors.New("the charge exceeds the debt that a bucket can carry")
)

// FieldError says which field of the input is wrong and why. It wraps the sentinel of its Kind.
type FieldError struct {
	Kind   error  // the sentinel: ErrInvalidLimit, ErrInvalidPolicy or ErrInvalidRequest
	Field  string // the field as its user wrote it, for example "capacity"
	Value  string // the value found, already safe to show; empty: not shown
	Reason string // what would be right
}

// Error implements error.
func (e *FieldError) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("%s: %s", e.Field, e.Reason)
	}
	return fmt.Sprintf("%s: %s: %s", e.Field, e.Value, e.Reason)
}

// Unwrap returns the sentinel.
func (e *FieldError) Unwrap() error { return e.Kind }
