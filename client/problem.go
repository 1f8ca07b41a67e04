package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// What a [Error] is, for errors.Is.
var (
	// ErrUnavailable says that there is no decision: the service or its store did not answer, or not in a way that can be
	// read. The tokens may have been taken all the same, so the check must not be asked again for the same request.
	ErrUnavailable = errors.New("client: no decision")
	// ErrInvalid says that the check itself was refused, and took nothing: an empty key, a cost out of range.
	ErrInvalid = errors.New("client: the check is refused")
	// ErrUnknownPolicy says that the service has no policy of this name.
	ErrUnknownPolicy = errors.New("client: unknown policy")
	// ErrForbidden says that the token is missing or wrong, or that the policy blocks this key.
	ErrForbidden = errors.New("client: not permitted")
)

// Error is an answer of RFC 9457 in place of a decision. It wraps one of the errors above.
type Error struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Instance  string `json:"instance"`
	RequestID string `json:"request_id"`
	// RetryAfter is what the service asks to wait; 0 if it does not say.
	RetryAfter time.Duration `json:"-"`
}

// Error implements error.
func (p *Error) Error() string {
	return fmt.Sprintf("velocity: %d %s: %s (request %s)", p.Status, p.Title, p.Detail, p.RequestID)
}

// Unwrap returns the error that the status stands for.
func (p *Error) Unwrap() error {
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

// problemOf reads an answer that is not 200. It may be another program's, in between.
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
		*p = Error{Title: http.StatusText(status), Detail: "the answer is no problem detail"}
	}
	p.Status = status
	return p
}
