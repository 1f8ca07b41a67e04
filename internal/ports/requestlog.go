package ports

import (
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/policy"
)

// RequestLog reads requests that were served earlier, to decide them again. It is for one goroutine.
type RequestLog interface {
	// Next returns the requests in the order of their times, and io.EOF after the last one. The result and all strings in
	// it are valid until the next call. Any other error means that the rest of the log cannot be read.
	Next() (*LoggedRequest, error)
}

// LoggedRequest is one request of a RequestLog.
type LoggedRequest struct {
	// Request is as an inbound adapter makes it: the path is in its normal form. The policy sets the cost, and a cost in
	// a header counts.
	Request policy.Request
	// At is when the request arrived. It never decreases from one request to the next.
	At domain.Instant
	// Status of the answer; 0 if the log does not have it.
	Status int
	// Log is the name of the log, and Line the number of the request's line, from 1.
	Log  string
	Line int
}
