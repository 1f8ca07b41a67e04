package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// The kinds of an [Error], for errors.Is.
var (
	// ErrUnavailable means that there is no decision: the service or its store did not answer, or the answer cannot be read.
	// The tokens may have been taken, so do not repeat the check for the same request.
	ErrUnavailable = errors.New("client: no decision")
	// ErrInvalid means that the check is wrong, and took nothing: an empty key, an attribute that the service does not know, a
	// cost out of range. Text that is not UTF-8, and a check over 64 KiB, are not sent: then there is no [Error].
	ErrInvalid = errors.New("client: the check is refused")
	// ErrUnknownPolicy means that the service has no policy with this name.
	ErrUnknownPolicy = errors.New("client: unknown policy")
	// ErrForbidden means that the token is missing or wrong, or that the policy blocks this key.
	ErrForbidden = errors.New("client: not permitted")
	// ErrPermitEnded means that a permit cannot be renewed: it was released, or its lease is over.
	ErrPermitEnded = errors.New("client: the permit has ended")
)

// Error is a problem detail (RFC 9457) that the service returned instead of a decision. It wraps one of the errors above.
type Error struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Instance  string `json:"instance"`
	RequestID string `json:"request_id"`
	// RetryAfter is how long the service asks to wait; 0 if it does not.
	RetryAfter time.Duration `json:"-"`

	ended bool // the problem is that a permit has ended
}

// Error implements error.
func (p *Error) Error() string {
	return fmt.Sprintf("velocity: %d %s: %s (request %s)", p.Status, p.Title, p.Detail, p.RequestID)
}

// Unwrap returns the kind of error, by the status.
func (p *Error) Unwrap() error {
	if p.ended {
		return ErrPermitEnded
	}
	switch p.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return ErrInvalid
	case http.StatusUnauthorized, http.StatusForbidden:
		return ErrForbidden
	case http.StatusNotFound:
		return ErrUnknownPolicy
	default:
		return ErrUnavailable
	}
}

// problemOf reads an answer whose status is not 200. It may come from a proxy instead of the service.
func problemOf(resp *http.Response, text []byte) error {
	p := readProblem(resp.StatusCode, text)
	if seconds, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 32); err == nil && seconds > 0 {
		p.RetryAfter = time.Duration(seconds) * time.Second
	}
	return p
}

func readProblem(status int, text []byte) *Error {
	p := &Error{}
	if err := json.Unmarshal(text, p); err != nil {
		*p = Error{Title: http.StatusText(status), Detail: "the answer is not a problem detail"}
	}
	p.Status = status
	return p
}
