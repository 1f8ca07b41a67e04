package app

import (
	"strings"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// clientOf finds the value of a policy's key in a request. A request without one is counted by its client's
// address, so that leaving the key out opens no bucket richer than its own. The value may be the request's own
// memory, and end with it: see keep.
func clientOf(req *domain.Request, key domain.Key) (source domain.KeySource, value string, err error) {
	address := domain.KeySource{Kind: domain.SourceIP}
	own := key.Sources()[0]
	switch {
	case req.Key != "" && own == address:
		return own, domain.NormalizeAddress(req.Key), nil
	case req.Key != "":
		return own, req.Key, nil
	}
	if own != address && req.Lookup != nil {
		if value, err = req.Lookup(own); err != nil {
			return own, "", err
		}
		if value != "" {
			return own, value, nil
		}
	}
	if value = domain.ClientAddress(req.Client); value != "" {
		return address, value, nil
	}
	return own, "", &domain.FieldError{Kind: domain.ErrInvalidRequest, Field: "key", Reason: "must not be empty"}
}

// keep returns a value that outlives the request. A key that ends with it, as nearly all do, lends its memory.
func keep(value string, key domain.BucketKey) string {
	if strings.HasSuffix(string(key), value) {
		return string(key)[len(key)-len(value):]
	}
	return strings.Clone(value)
}
