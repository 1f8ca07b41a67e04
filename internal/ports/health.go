package ports

import "context"

// HealthChecker tells how the store's servers are. Safe for concurrent use.
type HealthChecker interface {
	// CheckHealth asks every shard at once and returns when all have answered or ctx ends. A store without servers
	// returns nothing.
	CheckHealth(ctx context.Context) []ShardHealth
}

// ShardHealth is the health of one shard.
type ShardHealth struct {
	// Name is "shard-0" and so on, in the configured order: never an address, since it is shown.
	Name string
	// Err is nil if the shard can decide. It may hold an address, and is for logs alone.
	Err error
}
