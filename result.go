package velocity

import (
	"encoding/json"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

// Never is the RetryAfter of a request that can never pass, because it costs more than the capacity. It is the longest
// duration, about 292 years, so a loop that sleeps for it does not spin. Anything added to it overflows a Duration.
const Never time.Duration = math.MaxInt64

// unavailableRetry is the RetryAfter while the store fails: an estimate, since the store may take longer to recover.
const unavailableRetry = time.Second

// Result is what [Limiter.Take], [Limiter.Peek], [Limiter.Charge] and [Limiter.Refund] return: a decision, and the level after it. With
// an error it is the zero Result.
//
// No limit denies a Peek, Charge or Refund: Allowed is true and RetryAfter is 0, even if no token is left. Limit, Remaining,
// ResetAfter and TakenAt are as after a Take: they describe the level, and the time of the operation. If the store fails, the failure
// mode decides a Take or a Peek. A Charge or a Refund returns an error then, and so never sets Unavailable or Fallback.
type Result struct {
	// Allowed reports whether the request may pass.
	Allowed bool
	// Unavailable says that the request may not pass because the store failed and the policy is [Closed].
	Unavailable bool
	// Limit is the capacity, the quota or the number of permits of the most constraining limit: the one that denied with the longest
	// wait, or else the one with the fewest tokens left relative to its capacity. Remaining is the number of its tokens, rounded
	// down: below zero after a charge, and while requests wait for tokens that they have taken already.
	Limit, Remaining int64
	// RetryAfter is the wait after which the request would pass, or [Never]. It is an estimate, one second, if Unavailable is set,
	// or if all permits of a concurrency limit are held. It is 0 if Allowed is set, and positive otherwise, so that it is always safe to sleep for.
	RetryAfter time.Duration
	// ResetAfter is the time until the bucket is full, until the quota's period ends, or until the oldest permit would expire;
	// 0 if nothing is spent.
	ResetAfter time.Duration
	// Wait is how long the request must wait before it goes on, from the decision: the tokens are taken, and refilled by then.
	// Only [Limiter.Reserve] returns it, and only under a policy with [Policy.MaxWait]. Otherwise it is 0.
	Wait time.Duration
	// TakenAt is the time of the decision by the store's clock, in microseconds, for [Limiter.RefundTakenAt] and
	// [Limiter.ChargeTakenAt]. It is zero if the store failed and [Open] or [Closed] decided. If this process's memory decided
	// in its place, it is the time of this process's clock.
	TakenAt time.Time
	// Fallback says that the store failed, or that too much waited for it, and the failure mode decided. If TakenAt is zero,
	// Remaining and ResetAfter then mean nothing; else they are those of this process's memory. Do not refund such a take: the
	// store did not give its tokens.
	Fallback bool

	decision decision.Decision
}

func newResult(d *decision.Decision) Result {
	r := Result{
		Allowed: d.Allowed(), Unavailable: d.Outcome == decision.OutcomeUnavailable,
		Wait: d.Wait, Fallback: d.Store == decision.StoreFallback, decision: *d,
	}
	if d.LevelKnown {
		r.TakenAt = d.At.Time()
	}
	if most := d.Constraining(); most != nil {
		r.Limit, r.Remaining = int64(most.Capacity), int64(most.Remaining)
		r.RetryAfter, r.ResetAfter = most.RetryAfter, most.ResetAfter
	}
	switch {
	case r.Unavailable:
		r.RetryAfter = unavailableRetry
	case r.RetryAfter == domain.Never:
		r.RetryAfter = Never
	}
	return r
}

// HeaderFields calls set with each header field that describes the decision in an answer: X-RateLimit-Limit,
// X-RateLimit-Remaining, RateLimit and RateLimit-Policy; X-RateLimit-Retry-After and Retry-After if it is a denial;
// X-RateLimit-Store and X-RateLimit-Shadow where they apply.
func (r *Result) HeaderFields(set func(name, value string)) {
	var buf [256]byte
	r.decision.HeaderFields(buf[:0], func(name string, value []byte) { set(name, string(value)) })
	if r.Unavailable {
		set("Retry-After", strconv.Itoa(int(unavailableRetry/time.Second)))
	}
}

// The problem types of draft-ietf-httpapi-ratelimit-headers.
const (
	typeQuotaExceeded   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	typeReducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// ProblemType is the media type of [Result.Problem].
const ProblemType = "application/problem+json"

// Problem returns the HTTP answer to a request that may not pass: status 429, or 503 if the store failed, and a problem detail
// (RFC 9457) as the body.
func (r *Result) Problem() (status int, body []byte) {
	type general struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}
	if r.Unavailable {
		status = http.StatusServiceUnavailable
		body, _ = json.Marshal(general{ // every value can be encoded
			typeReducedCapacity, "Temporarily reduced capacity", status, "the store does not answer, and the policy refuses requests until it does",
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
		general{typeQuotaExceeded, "Quota exceeded", status, string(r.decision.AppendAdvice(nil))},
		r.Limit, max(r.Remaining, 0), retryAfter, r.decision.Policy, violated,
	})
	return status, body
}

// Address returns a client's address as a key: "192.0.2.1" for "192.0.2.1:1234", and for an IPv6 address its /64 network, which
// providers assign to one customer. Any other text is returned as it is.
func Address(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		remote = host
	}
	return clientkey.NormalizeAddress(remote)
}
