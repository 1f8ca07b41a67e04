// Package problem makes the problems (RFC 9457) that every HTTP adapter answers with, and maps errors to their status.
package problem

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
	"github.com/velocity-limiter/velocity/internal/domain/denial"
	"github.com/velocity-limiter/velocity/internal/ports"
	"github.com/velocity-limiter/velocity/internal/web/cleanpath"
)

// ContentType is the media type of a problem.
const ContentType = "application/problem+json"

// The problem types of draft-ietf-httpapi-ratelimit-headers-10, section 6.
const (
	typeQuotaExceeded   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	typeReducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// storeRetrySeconds is the Retry-After while the store or the server is unavailable. When it will be back is not known.
const storeRetrySeconds = 1

// Problem is the body of an answer. An empty Type is about:blank, and an empty Title the status's own phrase. Extra holds
// members beyond those of RFC 9457.
type Problem struct {
	Type      string         `json:"type"`
	Title     string         `json:"title"`
	Status    int            `json:"status"`
	Detail    string         `json:"detail"`
	Instance  string         `json:"instance"`
	RequestID string         `json:"request_id"`
	Extra     map[string]any `json:",embed"`

	// RetrySeconds is the Retry-After header; 0: none.
	RetrySeconds int64 `json:"-"`
	// Challenge is the WWW-Authenticate header of a 401; "": none.
	Challenge string `json:"-"`

	denial *decision.Decision // of a request that a limit denied; else nil
}

// Denied returns the problem for a decision that did not allow.
func Denied(d *decision.Decision) Problem {
	switch d.Outcome {
	case decision.OutcomeBlocked:
		return Problem{Status: http.StatusForbidden, Detail: "the policy blocks this client"}
	case decision.OutcomeUnavailable:
		return Problem{
			Status: http.StatusServiceUnavailable, Type: typeReducedCapacity,
			Title:        "Temporarily reduced capacity",
			Detail:       "the store does not answer, and the policy refuses requests until it does",
			RetrySeconds: storeRetrySeconds,
		}
	default:
		p := Problem{Status: http.StatusTooManyRequests, denial: d}
		if own := p.own(); own != nil && own.Status() != 0 {
			p.Status = own.Status()
		}
		return p
	}
}

// own returns how the policy answers instead, or nil.
func (p *Problem) own() *denial.Answer {
	if p.denial == nil || p.denial.AppliedPolicy == nil {
		return nil
	}
	return p.denial.AppliedPolicy.Denied
}

// AppendBody appends the body of an answer to dst, and returns its media type: the policy's own body for a denial, if it has one, else
// the object. id is the request's, and instance its path.
func (p *Problem) AppendBody(dst []byte, id, instance string) (body []byte, contentType string) {
	own := p.own()
	if own == nil || !own.HasBody() {
		return p.AppendJSON(dst, id, instance, -1), ContentType
	}
	values := denial.Values{RetryAfter: 1, RequestID: id}
	if most := p.denial.Constraining(); most != nil {
		values.Limit, values.RetryAfter = most.Capacity, decision.RetrySeconds(most.RetryAfter)
		if most.RetryAfter == domain.Never {
			values.RetryAfter = -1
		}
	}
	return own.AppendBody(dst, values), own.ContentType()
}

// AppendJSON appends the object, also where AppendBody has another body. id is the request's, and instance its path. check is the problem's place in a list of
// checks; -1: it is the whole answer.
func (p *Problem) AppendJSON(dst []byte, id, instance string, check int) []byte {
	if p.denial != nil {
		return p.appendDenial(dst, id, instance, check)
	}
	whole := *p
	if whole.Type == "" {
		whole.Type, whole.Title = "about:blank", http.StatusText(p.Status)
	}
	whole.Instance, whole.RequestID = string(appendInstance(nil, instance, check)), id
	body, err := json.Marshal(&whole, jsontext.AllowInvalidUTF8(true), json.Deterministic(true))
	if err != nil {
		panic("problem: " + err.Error()) // only a value in Extra that is no JSON
	}
	return append(dst, body...)
}

// appendDenial writes a 429 by hand: under attack most answers are one, and the library takes some eight times as long.
func (p *Problem) appendDenial(dst []byte, id, instance string, check int) []byte {
	d := p.denial
	dst = append(dst, `{"type":"`+typeQuotaExceeded+`","title":"Quota exceeded","status":`...)
	dst = strconv.AppendInt(dst, int64(p.Status), 10)
	dst = append(dst, `,"detail":"`...)
	dst = d.AppendAdvice(dst)
	dst = append(dst, `","instance":"`...)
	dst = appendInstance(dst, instance, check)
	dst = append(dst, `","request_id":`...)
	dst = AppendName(dst, id)
	if c := d.Constraining(); c != nil {
		dst = append(dst, `,"limit":`...)
		dst = strconv.AppendInt(dst, int64(c.Capacity), 10)
		dst = append(dst, `,"remaining":`...)
		dst = strconv.AppendInt(dst, int64(max(c.Remaining, 0)), 10)
		dst = append(dst, `,"retry_after_ms":`...)
		dst = strconv.AppendInt(dst, Millis(c.RetryAfter), 10)
	}
	dst = append(dst, `,"policy":`...)
	dst = AppendName(dst, d.Policy)
	dst = append(dst, `,"violated-policies":[`...)
	for i, first := 0, true; i < len(d.Limits); i++ {
		if d.Limits[i].Allowed {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		dst = AppendName(dst, d.Limits[i].Name)
		first = false
	}
	return append(dst, "]}"...)
}

func appendInstance(dst []byte, instance string, check int) []byte {
	dst = cleanpath.AppendEscaped(dst, instance)
	if check >= 0 {
		dst = append(dst, "#/checks/"...)
		dst = strconv.AppendInt(dst, int64(check), 10)
	}
	return dst
}

// AppendName quotes a string that needs no escaping: the name of a policy, a limit or a store, or the id of a request.
func AppendName(dst []byte, name string) []byte {
	dst = append(dst, '"')
	dst = append(dst, name...)
	return append(dst, '"')
}

// Millis returns a wait in milliseconds, rounded up; -1 for domain.Never.
func Millis(d time.Duration) int64 {
	if d == domain.Never {
		return -1
	}
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// What is wrong with a request, or with the server, by the status that answers it. Adapters translate the errors of
// their libraries into these.
var (
	ErrMalformed        = errors.New("malformed request")
	ErrUnauthorized     = errors.New("unauthorized")
	ErrForbidden        = errors.New("forbidden")
	ErrNotFound         = errors.New("not found")
	ErrNoRoute          = errors.New("no route for this method")
	ErrMethodNotAllowed = errors.New("method not allowed")
	ErrTooLarge         = errors.New("body too large")
	ErrMediaType        = errors.New("unsupported media type")
	ErrOutOfRange       = errors.New("value out of range")
	ErrHeaderTooLarge   = errors.New("header too large")
	ErrClientTooSlow    = errors.New("client too slow")
	ErrPanic            = errors.New("a handler failed")
	ErrBusy             = errors.New("at its limit")
	ErrNotRead          = errors.New("a read failed")
	ErrUpstreamTimeout  = errors.New("the upstream does not answer in time")
	ErrUpstream         = errors.New("the upstream does not answer as it should")
	// ErrSendAgain goes with an error of the store where the same request may be sent again, to make a change or the rest of it.
	ErrSendAgain = errors.New("the store does not answer: send it again")
)

// InputError says which part of a request is wrong, and wraps the kind of error that decides the status.
type InputError struct {
	Kind   error
	Field  string // as the client wrote it: "cost", "checks[3].key", a header's name
	Reason string
}

// Input returns an InputError.
func Input(kind error, field, reason string) error { return &InputError{kind, field, reason} }

// Error implements error.
func (e *InputError) Error() string {
	if e.Field == "" {
		return e.Reason
	}
	return e.Field + ": " + e.Reason
}

// Unwrap returns the kind.
func (e *InputError) Unwrap() error { return e.Kind }

// statusTable is the only place that maps errors to statuses. The first row that matches counts. detail is the text for
// clients; if it is empty, that is the error's own text.
var statusTable = []struct {
	err    error
	status int
	detail string
}{
	{cleanpath.ErrInvalid, http.StatusBadRequest, ""},
	{ErrMalformed, http.StatusBadRequest, ""},
	{ErrUnauthorized, http.StatusUnauthorized, ""},
	{domain.ErrMissingKey, http.StatusUnauthorized, "the request has no key"},
	{ErrForbidden, http.StatusForbidden, ""},
	{ErrNotFound, http.StatusNotFound, "there is nothing at this path"},
	{ErrBusy, http.StatusServiceUnavailable, ""},
	{ports.ErrUnknownPolicy, http.StatusNotFound, "policy: there is no policy of this name"},
	{ports.ErrPermitEnded, http.StatusNotFound, "permit: it has ended: it was released, or its lease is over"},
	{ports.ErrNoOverride, http.StatusNotFound, "this client has no override"},
	{ports.ErrOverridesFull, http.StatusInsufficientStorage, "there is no space for another override: end some that are no longer needed"},
	{ErrNoRoute, http.StatusMethodNotAllowed, "the Allow header names the methods of this path"},
	{ErrMethodNotAllowed, http.StatusMethodNotAllowed, ""},
	{ErrClientTooSlow, http.StatusRequestTimeout, "the request did not arrive in time"},
	{ErrTooLarge, http.StatusRequestEntityTooLarge, "the body is larger than this path takes"},
	{ErrMediaType, http.StatusUnsupportedMediaType, ""},
	{ErrOutOfRange, http.StatusUnprocessableEntity, ""},
	{domain.ErrDebtExceeded, http.StatusUnprocessableEntity, "cost: " + domain.ErrDebtExceeded.Error()},
	{domain.ErrMalformedRequest, http.StatusBadRequest, "the request cannot be decided"},
	{domain.ErrInvalidRequest, http.StatusUnprocessableEntity, "the request cannot be decided"},
	{ports.ErrInvalidTake, http.StatusUnprocessableEntity, "the request cannot be decided"},
	{ErrHeaderTooLarge, http.StatusRequestHeaderFieldsTooLarge, "the header is larger than this server takes"},
	{ErrPanic, http.StatusInternalServerError, "the server failed; the request id finds the reason in its log"},
	{ports.ErrCannotHold, http.StatusNotImplemented, "the policy has a concurrency limit, and here no one learns when a request ends: " +
		"use the reverse proxy, a middleware, or /v1/check with /v1/release"},
	{ErrUpstreamTimeout, http.StatusGatewayTimeout, "the upstream does not answer in time"},
	{ErrUpstream, http.StatusBadGateway, "the upstream does not answer as it should"},
	{ports.ErrCorrupt, http.StatusServiceUnavailable, "what the store holds for this key cannot be read; a reset replaces it"},
	{ErrSendAgain, http.StatusServiceUnavailable, "the store does not answer: send it again, it counts once"},
	{ports.ErrOverloaded, http.StatusServiceUnavailable, "the server is overloaded"},
	{ErrNotRead, http.StatusServiceUnavailable, "the store does not answer; nothing was changed"},
	{ports.ErrUnavailable, http.StatusServiceUnavailable, "the store does not answer; the request may or may not have been carried out"},
}

// challengeOf returns the scheme by which a client should authenticate: Bearer for a token, and Key, which other gateways send too,
// for another key that a request must have. missing is what a request lacks by its policy, or nil.
func challengeOf(missing *domain.FieldError) string {
	if missing == nil || strings.Contains(missing.Field, "header:authorization") {
		return "Bearer"
	}
	return "Key"
}

// Of returns the problem for an error. An error that is not in the table is a bug of the server: 500, without its text.
func Of(err error) Problem {
	for i := range statusTable {
		row := &statusTable[i]
		if !errors.Is(err, row.err) {
			continue
		}
		p := Problem{Status: row.status, Detail: row.detail}
		var field *domain.FieldError
		switch {
		case errors.As(err, &field):
			p.Detail = field.Error()
		case p.Detail == "":
			p.Detail = err.Error()
		}
		switch p.Status {
		case http.StatusServiceUnavailable:
			p.RetrySeconds = storeRetrySeconds
		case http.StatusUnauthorized:
			p.Challenge = challengeOf(field)
		}
		return p
	}
	return Problem{Status: http.StatusInternalServerError, Detail: "the server failed"}
}
