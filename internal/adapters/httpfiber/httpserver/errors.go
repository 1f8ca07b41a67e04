package httpserver

import (
	"bytes"
	"errors"
	"net"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber/reply"
	"github.com/velocity-limiter/velocity/internal/web/problem"
)

// answerError answers a handler's error. The text of Fiber's own errors repeats the request, so it is not shown.
func answerError(ctx *fasthttp.RequestCtx, err error) {
	var routing *fiber.Error
	switch {
	case errors.Is(err, fiber.ErrMethodNotAllowed):
		err = problem.ErrNoRoute
	case !errors.As(err, &routing):
	case routing.Code == fiber.StatusNotFound: // the router makes a new one for each path
		err = problem.ErrNotFound
	default:
		reply.Problem(ctx, &problem.Problem{Status: routing.Code, Detail: "the request cannot be answered"})
		return
	}
	reply.Error(ctx, err)
}

// connectionError translates an error of fasthttp about a request that could not be read.
func connectionError(err error) error {
	var tooBig *fasthttp.ErrSmallBuffer
	var network net.Error
	switch {
	case errors.As(err, &tooBig):
		return problem.ErrHeaderTooLarge
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		return problem.ErrTooLarge
	case errors.Is(err, fasthttp.ErrTimeout), errors.As(err, &network) && network.Timeout():
		return problem.ErrClientTooSlow
	}
	return problem.Input(problem.ErrMalformed, "", "this is not a valid HTTP request")
}

// checkLines refuses a header with a line that ends in LF alone, that continues in the next line, or whose name holds a space:
// servers read these differently.
func checkLines(raw []byte) error {
	for at := 0; ; {
		end := bytes.IndexByte(raw[at:], '\n')
		if end < 0 {
			return nil
		}
		name, _, _ := bytes.Cut(raw[at:at+end], []byte(":"))
		end += at
		switch at = end + 1; {
		case bytes.ContainsAny(name, " \t"):
			return badHeader("a name holds a space")
		case end == 0 || raw[end-1] != '\r':
			return badHeader("a line does not end in CR and LF")
		case at < len(raw) && (raw[at] == ' ' || raw[at] == '\t'):
			return badHeader("a line is folded")
		}
	}
}

// badHeader returns the error of a header that servers might read differently.
func badHeader(reason string) error {
	return problem.Input(problem.ErrMalformed, "header", reason)
}
