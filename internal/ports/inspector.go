package ports

import (
	"context"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/decision"
)

// Inspector shows and resets the buckets of one client, and ends its permits, for operators. Its errors are those of [Limiter]. If the store
// fails, they wrap an error of [BucketStore]. Implementations are safe for concurrent use.
type Inspector interface {
	// Inspect returns the buckets and permits of a client. It changes nothing.
	Inspect(ctx context.Context, id ClientID) (BucketReport, error)
	// Reset makes the buckets of a client full. It ends no permit. It may be called again after any error.
	Reset(ctx context.Context, id ClientID) error
	// EndPermits ends the permit of that ID, or all that the client holds if permit is "", and returns how many it ended. What
	// their requests took stays spent, and a release by their holders charges and refunds nothing. Of permits that are taken
	// meanwhile, some may end, too. It may be called again after any error; ended counts what had ended before the error.
	EndPermits(ctx context.Context, id ClientID, permit string) (ended int, err error)
}

// ClientID names one client under one policy.
type ClientID struct {
	// Policy is the name of a policy, or of a shared limit: policy.SharedPrefix and the limit's name. The limits that a policy
	// shares with others are not looked at under its own name.
	Policy string
	// Key is the value of the client's key, as clientkey.ListValue writes it. A secret value may be the value or its HMAC, as it is
	// listed; see clientkey.Listed.
	Key string
	// Source says where the value comes from: the policy's key or the key of one of its limits, as clientkey.Key.String
	// writes it, or "ip" for a client whose requests have no key. Empty means the policy's key.
	Source string
}

// BucketReport is what a store holds for one client.
type BucketReport struct {
	Policy string
	// Source of the client's key, as in a policy file.
	Source string
	// Key is that of the ClientID, with the HMACs of secret values in their places.
	Key   string
	Store decision.StoreName
	// Now is the store's time of the report.
	Now    domain.Instant
	Limits []LimitLevel
	// Override is the one at run time that applies to the client; nil if none does. A client that is exempt or blocked by it has the
	// policy's Limits here.
	Override *Override
	// Conditions are the sources by whose values a request gets other limits than these, which are those of a request without any of
	// them. Empty if the policy has no conditions, or if an Override applies, which is above them.
	Conditions []string
}

// LimitLevel is one limit of a BucketReport.
type LimitLevel struct {
	Limit domain.Limit
	State domain.State
	// Permits are those held of a limit of domain.KindConcurrency, as domain.Permits.List returns them. There may be more: the
	// State counts all.
	Permits []domain.Permit
}
