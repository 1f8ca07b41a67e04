package ports

import (
	"context"

	"github.com/velocity-limiter/velocity/internal/domain"
)

// Inspector looks at one client's buckets and resets them: the operator's view. Safe for concurrent use. Errors
// are those of Limiter; a store that fails is ErrUnavailable.
type Inspector interface {
	// Inspect reads the buckets and changes nothing.
	Inspect(ctx context.Context, id ClientID) (BucketReport, error)
	// Reset makes the buckets full. It is idempotent.
	Reset(ctx context.Context, id ClientID) error
}

// ClientID names one client under one policy.
type ClientID struct {
	Policy string
	// Key is the value of the key, as domain.ListValue writes it.
	Key string
	// Source is the key that Key is a value of: the policy's own or that of one of its limits, as domain.Key.String
	// writes it, or "ip" for a client whose request had no key. Empty: the policy's own.
	Source string
}

// BucketReport is what a store holds for one client.
type BucketReport struct {
	Policy string
	// Source of the key, as in a policy file.
	Source string
	Store  domain.StoreName
	// Now is the store's time of the report.
	Now    domain.Instant
	Limits []BucketLevel
}

// BucketLevel is one bucket of a BucketReport.
type BucketLevel struct {
	Limit  domain.Limit
	Bucket domain.Bucket
}
