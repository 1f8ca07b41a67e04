package ports

import (
	"context"
	"time"
)

// StatsSource returns statistics of the store's servers. Safe for concurrent use.
type StatsSource interface {
	// Stats returns one entry per shard, in the order and by the names of HealthChecker; in a Cluster one per node. It
	// sends no request, and delays no decision. A store without servers returns an empty list.
	Stats() []ShardStats
}

// ShardStats is the statistics of one shard since the start. Numbers of type uint64 only grow, but those of a Cluster's
// shard start from zero when another node replaces its primary.
type ShardStats struct {
	// Name is "shard-0" and so on: never an address, since it is shown.
	Name string
	// Breaker is the state of the circuit breaker. Since is when it last closed, or opened if it has not closed again.
	Breaker BreakerState
	Since   time.Time
	// Up is false while the breaker is not closed, and after a batch that failed until one succeeds.
	Up bool

	// Queued is the number of groups that wait to be sent, InFlight the number of batches that are under way.
	Queued   int
	InFlight int

	// Batches is the number of batches that were sent, with Groups in them, whether they failed or not. It does not include
	// the breaker's probes.
	Batches uint64
	Groups  uint64
	// Failures counts the batches in which a failure of a kind occurred, by the store's name for the kind. It holds every
	// kind, also those that did not occur. The caller may change the map.
	Failures map[string]uint64
	// Refused is the number of groups that were not sent because the breaker was not closed, Overloaded the number of those
	// that were not sent because too much was waiting.
	Refused    uint64
	Overloaded uint64
	// Openings is how often the breaker opened.
	Openings uint64

	// BatchSeconds is the time of batches from sending to reply, BatchGroups their size.
	BatchSeconds Histogram
	BatchGroups  Histogram

	// ClockSkew is the least by which the server's clock is ahead of this process's clock: 0 while the difference is within
	// a round trip. No decision depends on it.
	ClockSkew time.Duration
}

// BreakerState is the state of a shard's circuit breaker.
type BreakerState string

// The states of a circuit breaker.
const (
	// BreakerClosed: requests are sent to the shard.
	BreakerClosed BreakerState = "closed"
	// BreakerOpen: no requests are sent, and the failure policy decides at once.
	BreakerOpen BreakerState = "open"
	// BreakerHalfOpen: as BreakerOpen, while a probe finds out whether the shard can decide.
	BreakerHalfOpen BreakerState = "half-open"
)

// Histogram counts observations by size.
type Histogram struct {
	// Bounds are the inclusive upper bounds of the buckets, ascending.
	Bounds []float64
	// Counts has one number per bound, and one more for what is above the last; each observation counts once.
	Counts []uint64
	// Sum of all observations.
	Sum float64
}

// HealthChecker checks the store's servers. Safe for concurrent use.
type HealthChecker interface {
	// CheckHealth asks every shard at once and returns when all have answered or ctx ends. A store without servers
	// returns an empty list.
	CheckHealth(ctx context.Context) []ShardHealth
}

// ShardHealth is the health of one shard.
type ShardHealth struct {
	// Name is "shard-0" and so on, in the configured order: never an address, since it is shown.
	Name string
	// Err is nil if the shard can decide. It may hold an address, so it is for logs only.
	Err error
}
