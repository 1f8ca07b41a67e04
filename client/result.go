package client

import (
	"encoding/json"
	"errors"
	"time"
)

// Never is the RetryAfter of a check that can never pass, because its cost is above the capacity.
const Never time.Duration = -1

// Result is a decision.
type Result struct {
	// Allowed reports whether the request may pass.
	Allowed bool
	// Policy is the name of the policy that decided.
	Policy string
	// Limit, Remaining, RetryAfter and ResetAfter are of the most constraining limit; see [Limit].
	Limit      int64
	Remaining  int64
	RetryAfter time.Duration
	ResetAfter time.Duration
	// TakenAt is the time of a check that took tokens or was denied, for TakenAt of a [Check] that refunds or charges. It is of
	// the store's clock, or if Store is fallback, of the service's. It is zero if nothing was to be taken, or if no store decided.
	TakenAt time.Time
	// Wait is how long the request must wait before it goes on, from the decision: the tokens are taken, and refilled by then. It
	// is rounded up to a millisecond, at most the MaxWait of the [Check], and 0 if the request need not wait.
	Wait time.Duration
	// Permit is what the request holds of concurrency limits: end it by [Client.Release] when the request has ended. It is empty
	// if the policy has no concurrency limit, or if the request was denied.
	Permit string
	// PermitExpiresAfter is the time after which the permit ends by itself, from the decision, unless [Client.Renew] renews it.
	PermitExpiresAfter time.Duration
	// LevelKnown is false if the service's failure policy decided. Remaining and ResetAfter then mean nothing.
	LevelKnown bool
	// Mode is enforce or shadow. A policy in shadow mode lets every request pass.
	Mode string
	// Store says who decided: redis, memory, shortcut (the denial cache), fallback (the failure policy), or policy: it blocks or
	// exempts the client. Do not refund a check that fallback decided: the store did not give its tokens.
	Store string
	// Limits has the part of each limit.
	Limits []Limit
}

// Limit is the part of one limit in a decision.
type Limit struct {
	Name    string
	Allowed bool
	// Limit is the capacity, in tokens, the quota of a period, or how many permits can be held at once.
	Limit int64
	// Remaining tokens or permits, rounded down; below zero after a charge, and while requests wait for tokens that they have taken.
	Remaining int64
	// RetryAfter is the wait after which the check would pass, rounded up to a millisecond; 0 if it passed, or [Never]. It is a
	// second if all permits are held: no one knows when one is released.
	RetryAfter time.Duration
	// ResetAfter is the time until nothing is spent any more: the bucket is full, or the quota's period ends. Of a concurrency
	// limit it is the time until its oldest permit would end by itself.
	ResetAfter time.Duration
}

// Answer is the answer to one check of [Client.CheckMany].
type Answer struct {
	Result Result
	// Err is nil if there is a Result. Otherwise it is an [*Error], or wraps [ErrInvalid] or [ErrUnavailable].
	Err error
}

// wireLevel and the types below are the service's JSON.
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
	Allowed *bool  `json:"allowed"` // nil if the JSON is not a result
	Policy  string `json:"policy"`
	Mode    string `json:"mode"`
	Store   string `json:"store"`
	TakenAt int64  `json:"taken_at_us"`
	WaitMS  int64  `json:"wait_ms"`
	Permit  string `json:"permit"`
	LeaseMS int64  `json:"permit_expires_after_ms"`
	wireLevel
	Limits []wireLimit `json:"limits"`
}

func (w *wireLevel) remaining() int64 {
	if w.Remaining == nil {
		return 0
	}
	return *w.Remaining
}

// millis converts milliseconds to a duration, and any negative number to Never.
func millis(n int64) time.Duration {
	if n < 0 {
		return Never
	}
	return time.Duration(n) * time.Millisecond
}

// readResult reads a result. It refuses other JSON, such as the answer of another program, which would look like a denial.
func readResult(text []byte) (Result, error) {
	var w wireResult
	if err := json.Unmarshal(text, &w); err != nil {
		return Result{}, unreadable(err)
	}
	if w.Allowed == nil {
		return Result{}, unreadable(errors.New("it has no member allowed"))
	}
	r := Result{
		Allowed: *w.Allowed, Policy: w.Policy, Mode: w.Mode, Store: w.Store,
		Limit: w.Limit, Remaining: w.remaining(), LevelKnown: w.Remaining != nil,
		RetryAfter: millis(w.RetryAfterMS), ResetAfter: millis(w.ResetAfterMS), Wait: max(millis(w.WaitMS), 0),
		Permit: w.Permit, PermitExpiresAfter: max(millis(w.LeaseMS), 0),
		Limits: make([]Limit, len(w.Limits)),
	}
	if w.TakenAt > 0 {
		r.TakenAt = time.UnixMicro(w.TakenAt).UTC()
	}
	for i := range w.Limits {
		l := &w.Limits[i]
		r.Limits[i] = Limit{
			Name: l.Name, Allowed: l.Allowed, Limit: l.Limit, Remaining: l.remaining(),
			RetryAfter: millis(l.RetryAfterMS), ResetAfter: millis(l.ResetAfterMS),
		}
	}
	return r, nil
}

// readAnswer reads a result or a problem.
func readAnswer(text []byte) Answer {
	var kind struct {
		Status int `json:"status"` // only problems have it
	}
	if err := json.Unmarshal(text, &kind); err != nil {
		return Answer{Err: unreadable(err)}
	}
	if kind.Status != 0 {
		return Answer{Err: readProblem(kind.Status, text)}
	}
	r, err := readResult(text)
	return Answer{Result: r, Err: err}
}
