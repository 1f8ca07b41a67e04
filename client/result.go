package client

import (
	"encoding/json"
	"errors"
	"time"
)

// Never is the RetryAfter of a check that can never pass: its cost is above the capacity.
const Never time.Duration = -1

// Result is a decision.
type Result struct {
	// Allowed reports whether the request may pass.
	Allowed bool
	// Policy is the name of the policy that decided.
	Policy string
	// Limit, Remaining, RetryAfter and ResetAfter are those of the most constraining limit; see [Limit].
	Limit      int64
	Remaining  int64
	RetryAfter time.Duration
	ResetAfter time.Duration
	// LevelKnown is false where the service's failure policy decided: then Remaining and ResetAfter say nothing.
	LevelKnown bool
	// Mode is enforce or shadow; a policy in shadow mode lets everything pass.
	Mode string
	// Store is redis, memory, shortcut or fallback: who decided.
	Store string
	// Limits has each limit's part.
	Limits []Limit
}

// Limit is one limit's part in a decision.
type Limit struct {
	Name    string
	Allowed bool
	// Limit is the capacity, in tokens.
	Limit int64
	// Remaining tokens, rounded down; below zero after a charge.
	Remaining int64
	// RetryAfter is the wait, rounded up to a millisecond, after which the check would pass; 0 if it did, or [Never].
	RetryAfter time.Duration
	// ResetAfter is the time until the bucket is full.
	ResetAfter time.Duration
}

// Answer is one of [Client.CheckMany].
type Answer struct {
	Result Result
	// Err is nil if there is a Result. It is a [Error].
	Err error
}

// wireLevel and those below are the service's JSON.
type wireLevel struct {
	Limit        int64  `json:"limit"`
	Remaining    *int64 `json:"remaining"`
	RetryAfterMS int64  `json:"retry_after_ms"`
	ResetAfterMS int64  `json:"reset_after_ms"`
}

type wireLimit struct {
	Name    string `json:"name"`
	Allowed bool   `json:"allowed"`
	wireLevel
}

type wireResult struct {
	Allowed *bool  `json:"allowed"` // nil: it is no result
	Policy  string `json:"policy"`
	Mode    string `json:"mode"`
	Store   string `json:"store"`
	wireLevel
	Limits []wireLimit `json:"limits"`
}

func (w *wireLevel) remaining() int64 {
	if w.Remaining == nil {
		return 0
	}
	return *w.Remaining
}

// millis keeps Never what it is.
func millis(n int64) time.Duration {
	if n < 0 {
		return Never
	}
	return time.Duration(n) * time.Millisecond
}

// readResult refuses what is no result, as another program's answer: it would pass for a denial.
func readResult(text []byte) (Result, error) {
	var w wireResult
	if err := json.Unmarshal(text, &w); err != nil {
		return Result{}, unreadable(err)
	}
	if w.Allowed == nil {
		return Result{}, unreadable(errors.New("it does not say whether it is allowed"))
	}
	return w.result(), nil
}

func (w *wireResult) result() Result {
	r := Result{
		Allowed: *w.Allowed, Policy: w.Policy, Mode: w.Mode, Store: w.Store,
		Limit: w.Limit, Remaining: w.remaining(), LevelKnown: w.Remaining != nil,
		RetryAfter: millis(w.RetryAfterMS), ResetAfter: millis(w.ResetAfterMS),
		Limits: make([]Limit, len(w.Limits)),
	}
	for i := range w.Limits {
		l := &w.Limits[i]
		r.Limits[i] = Limit{
			Name: l.Name, Allowed: l.Allowed, Limit: l.Limit, Remaining: l.remaining(),
			RetryAfter: millis(l.RetryAfterMS), ResetAfter: millis(l.ResetAfterMS),
		}
	}
	return r
}

// wireAnswer is a result, or a problem in its place.
type wireAnswer struct{ text json.RawMessage }

// UnmarshalJSON keeps the text until it is known which of the two it is.
func (w *wireAnswer) UnmarshalJSON(text []byte) error {
	w.text = append(w.text[:0], text...)
	return nil
}

func (w *wireAnswer) answer() Answer {
	var kind struct {
		Status int `json:"status"` // a problem's alone
	}
	if err := json.Unmarshal(w.text, &kind); err != nil {
		return Answer{Err: unreadable(err)}
	}
	if kind.Status != 0 {
		return Answer{Err: readProblem(kind.Status, w.text)}
	}
	r, err := readResult(w.text)
	return Answer{Result: r, Err: err}
}
