package velocity

import (
	"encoding/json"
	"net"
	"net/http"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Never is the RetryAfter of what can never pass, since it costs more than the capacity.
const Never = domain.Never

// Result is a decision.
type Result struct {
	// Allowed reports whether the request may pass.
	Allowed bool
	// Unavailable says that it may not because the store failed and the policy is [Closed].
	Unavailable bool
	// Limit is the capacity of the most constraining limit: the one that denied with the longest wait, else the one with
	// the fewest tokens left relative to its capacity. Remaining are its tokens, rounded down.
	Limit, Remaining int64
	// RetryAfter is the wait after which the request would pass; 0 if it did, or [Never].
	RetryAfter time.Duration
	// ResetAfter is the time until the bucket is full.
	ResetAfter time.Duration
	// Fallback says that the store failed: the failure mode decided, and unless it is [Local] nothing is known of
	// Remaining and ResetAfter.
	Fallback bool

	decision domain.Decision
}

func newResult(d *domain.Decision) Result {
	r := Result{
		Allowed: d.Allowed(), Unavailable: d.Outcome == domain.OutcomeUnavailable,
		Fallback: d.Store == domain.StoreFallback, decision: *d,
	}
	if most := d.Constraining(); most != nil {
		r.Limit, r.Remaining = int64(most.Capacity), int64(most.Remaining)
		r.RetryAfter, r.ResetAfter = most.RetryAfter, most.ResetAfter
	}
	return r
}

// HeaderFields calls set with each header field that tells of the decision on an answer: X-RateLimit-Limit and its kin,
// RateLimit and RateLimit-Policy, and Retry-After where it was denied.
func (r *Result) HeaderFields(set func(name, value string)) {
	var room [256]byte
	r.decision.HeaderFields(room[:0], func(name string, value []byte) { set(name, string(value)) })
	if r.Unavailable {
		set("Retry-After", "1") // nobody knows when the store will be back
	}
}

// The problem types of draft-ietf-httpapi-ratelimit-headers.
const (
	typeQuotaExceeded   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	typeReducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// ProblemType is the media type of [Result.Problem].
const ProblemType = "application/problem+json"

// Problem is the answer over HTTP to a request that may not pass: 429 or, where the store failed, 503, and a problem
// detail of RFC 9457.
func (r *Result) Problem() (status int, body []byte) {
	type general struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}
	if r.Unavailable {
		status = http.StatusServiceUnavailable
		body, _ = json.Marshal(general{ // it holds nothing that cannot be encoded
			typeReducedCapacity, "Temporarily reduced capacity", status, "the store does not answer, and the policy then refuses",
		})
		return status, body
	}
	status = http.StatusTooManyRequests
	violated := []string{}
	for i := range r.decision.Limits {
		if l := &r.decision.Limits[i]; !l.Allowed {
			violated = append(violated, l.Name)
		}
	}
	retryAfter := int64(-1)
	if r.RetryAfter != Never {
		retryAfter = int64((r.RetryAfter + time.Millisecond - 1) / time.Millisecond)
	}
	body, _ = json.Marshal(struct { // as above
		general
		Limit        int64    `json:"limit"`
		Remaining    int64    `json:"remaining"`
		RetryAfterMS int64    `json:"retry_after_ms"`
		Policy       string   `json:"policy"`
		Violated     []string `json:"violated-policies"`
	}{
		general{typeQuotaExceeded, "Quota exceeded", status, "a limit is reached; violated-policies names it"},
		r.Limit, max(r.Remaining, 0), retryAfter, r.decision.Policy, violated,
	})
	return status, body
}

// Address is a client's address as a key: "192.0.2.1" of "192.0.2.1:1234", and of an IPv6 address its /64, which is one
// customer's link. What is no address stays as it is.
func Address(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		remote = host
	}
	return domain.NormalizeAddress(remote)
}
