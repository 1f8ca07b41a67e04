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
	// ErrInvalidRequest is wrapped by every error that refuses a request before any limit is checked.
	ErrInvalidRequest = errors.New("invalid request")
	// ErrMalformedRequest is wrapped by every error that refuses a request which cannot be parsed.
	ErrMalformedRequest = errors.New("malformed request")
	// ErrNoValue is returned by a request's Lookup for a missing value that the client's address must not replace.
	ErrNoValue = errors.New("the request has no such value")
	// ErrMissingKey is wrapped by the error that refuses a request without a value for the key of its policy.
	ErrMissingKey = errors.New("the request has no key")
	// ErrDebtExceeded refuses a charge that would take a bucket below -2^52 credits or below what 100 years refill, or
	// what is left of a quota below -2^52 tokens. Nothing was charged.
	ErrDebtExceeded = errors.New("the charge exceeds the debt that a limit can carry")
)

// FieldError says which field of the input is wrong and why. It wraps the sentinel of its Kind.
type FieldError struct {
	Kind   error  // the sentinel: ErrInvalidLimit, ErrInvalidPolicy, ErrInvalidRequest, ErrMalformedRequest or ErrMissingKey
	Field  string // the field as its user wrote it, for example "capacity"
	Value  string // the value found, already safe to show; empty: not shown
	Reason string // why it is wrong, or what it must be
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

// FieldErrors returns the FieldErrors that err is, wraps or joins, in their order. Other errors are left out.
func FieldErrors(err error) (all []*FieldError) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			all = append(all, FieldErrors(e)...)
		}
	} else if one, ok := errors.AsType[*FieldError](err); ok {
		all = append(all, one)
	}
	return all
}
