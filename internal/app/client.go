package app

import (
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// clientOf finds the value of a policy's key in a request. A request without one is counted by its client's
// address, so that leaving the key out opens no bucket richer than its own. The value is a copy: the request's
// strings may not outlive the call.
func clientOf(req *domain.Request, own domain.KeySource) (source domain.KeySource, value string, err error) {
	address := domain.KeySource{Kind: domain.SourceIP}
	switch {
	case req.Key != "" && own == address:
		return own, strings.Clone(domain.NormalizeAddress(req.Key)), nil
	case req.Key != "":
		return own, strings.Clone(req.Key), nil
	}
	if own != address && req.Lookup != nil {
		if value, err = req.Lookup(own); err != nil {
			return own, "", err
		}
		if value != "" {
			return own, strings.Clone(value), nil
		}
	}
	if value = domain.ClientAddress(req.Client); value != "" {
		return address, value, nil
	}
	return own, "", &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must not be empty"}
}
