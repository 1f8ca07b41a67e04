package ports

import "github.com/velocity-limiter/velocity/internal/domain"

// RequestLog yields requests that were served once, so that they can be decided again. For one goroutine.
type RequestLog interface {
	// Next returns the next request, in the order of their times, or io.EOF after the last one. What it returns, and
	// every string in it, is valid until the next call. Another error means that the rest cannot be read.
	Next() (*LoggedRequest, error)
}

// LoggedRequest is one request of a RequestLog.
type LoggedRequest struct {
	// Request is what a door would have made of it: the path is in its normal form, HEAD is GET. Its policy says
	// the cost, and a cost that it names itself is believed.
	Request domain.Request
	// At is when it came. It never goes back from one request to the next.
	At domain.Instant
	// Status is what was answered; 0 if the log does not say.
	Status int
	// Log and Line say where it stands: the log's name, and the number of the line, from 1.
	Log  string
	Line int
}
