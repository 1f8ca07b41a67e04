package httpfiber

import (
	"errors"
	"net"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/upstream"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// What is wrong with a request, by the status that answers it.
var (
	errMalformed     = errors.New("malformed request")
	errUnauthorized  = errors.New("unauthorized")
	errForbidden     = errors.New("forbidden")
	errTooLarge      = errors.New("body too large")
	errMediaType     = errors.New("unsupported media type")
	errOutOfRange    = errors.New("value out of range")
	errHeaderTooBig  = errors.New("header too large")
	errClientTooSlow = errors.New("client too slow")
	errPanic         = errors.New("a handler failed")
	errNoMethod      = errors.New("method not allowed")
	errUpgrade       = errors.New("the upstream switches to another protocol than it was asked for")
)

// inputError says which part of a request is wrong, and wraps the kind of error that decides the status.
type inputError struct {
	kind   error
	field  string // as the client wrote it: "cost", "checks[3].key", a header's name
	reason string
}

func (e *inputError) Error() string {
	if e.field == "" {
		return e.reason
	}
	return e.field + ": " + e.reason
}

func (e *inputError) Unwrap() error { return e.kind }

// storeRetrySeconds is the Retry-After of an answer that a failed store caused: nobody knows when it will be back.
const storeRetrySeconds = 1

// statusTable is the one place that maps errors to statuses. The first row that matches decides. A row's detail is
// for errors whose own text is not meant for clients; when it is empty, the error's text is shown.
var statusTable = []struct {
	err    error
	status int
	detail string
}{
	{errPath, fiber.StatusBadRequest, ""},
	{errMalformed, fiber.StatusBadRequest, ""},
	{errUnauthorized, fiber.StatusUnauthorized, ""},
	{errForbidden, fiber.StatusForbidden, ""},
	{errTooManyViewers, fiber.StatusServiceUnavailable, ""},
	{ports.ErrUnknownPolicy, fiber.StatusNotFound, "policy: there is no policy of this name"},
	{fiber.ErrMethodNotAllowed, fiber.StatusMethodNotAllowed, "the Allow header names the methods of this path"},
	{errNoMethod, fiber.StatusMethodNotAllowed, ""},
	{errClientTooSlow, fiber.StatusRequestTimeout, "the request did not arrive in time"},
	{errTooLarge, fiber.StatusRequestEntityTooLarge, "the body is larger than this path takes"},
	{errMediaType, fiber.StatusUnsupportedMediaType, ""},
	{errOutOfRange, fiber.StatusUnprocessableEntity, ""},
	{domain.ErrDebtExceeded, fiber.StatusUnprocessableEntity, "cost: " + domain.ErrDebtExceeded.Error()},
	{domain.ErrMalformedRequest, fiber.StatusBadRequest, "the request cannot be decided"},
	{domain.ErrInvalidRequest, fiber.StatusUnprocessableEntity, "the request cannot be decided"},
	{ports.ErrInvalidTake, fiber.StatusUnprocessableEntity, "the request cannot be decided"},
	{errHeaderTooBig, fiber.StatusRequestHeaderFieldsTooLarge, "the header is larger than this server takes"},
	{errPanic, fiber.StatusInternalServerError, "the server failed; the request id finds the reason in its log"},
	{upstream.ErrTimeout, fiber.StatusGatewayTimeout, "the upstream does not answer in time"},
	{upstream.ErrUnavailable, fiber.StatusBadGateway, "the upstream does not answer as it should"},
	{errUpgrade, fiber.StatusBadGateway, "the upstream does not answer as it should"},
	{ports.ErrOverloaded, fiber.StatusServiceUnavailable, "the server is overloaded"},
	{ports.ErrUnavailable, fiber.StatusServiceUnavailable, "the store does not answer; what was asked may or may not have been carried out"},
	{ports.ErrCorrupt, fiber.StatusServiceUnavailable, "what the store holds for this key cannot be read"},
}

// problemOf looks an error up. One that is not in the table is a bug of ours: 500, and nothing of it is shown.
func problemOf(err error) problem {
	for i := range statusTable {
		row := &statusTable[i]
		if !errors.Is(err, row.err) {
			continue
		}
		p := problem{status: row.status, detail: row.detail}
		var field *domain.FieldError
		switch {
		case errors.As(err, &field):
			p.detail = field.Error()
		case p.detail == "":
			p.detail = err.Error()
		}
		if p.status == fiber.StatusServiceUnavailable {
			p.retrySeconds = storeRetrySeconds
		}
		return p
	}
	var other *fiber.Error // Fiber's text repeats the request, so it is not shown
	if errors.As(err, &other) {
		p := problem{status: other.Code, detail: "the request cannot be answered"}
		if p.status == fiber.StatusNotFound { // the router makes a new one for each path
			p.detail = "there is nothing at this path"
		}
		return p
	}
	return problem{status: fiber.StatusInternalServerError, detail: "the server failed"}
}

// connectionError translates what fasthttp found wrong before there was a request to route.
func connectionError(err error) error {
	var tooBig *fasthttp.ErrSmallBuffer
	var network net.Error
	switch {
	case errors.As(err, &tooBig):
		return errHeaderTooBig
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		return errTooLarge
	case errors.Is(err, fasthttp.ErrTimeout), errors.As(err, &network) && network.Timeout():
		return errClientTooSlow
	}
	return &inputError{kind: errMalformed, reason: "this is not a valid HTTP request"}
}
