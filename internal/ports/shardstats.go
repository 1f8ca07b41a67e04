package ports

import "time"

// StatsSource tells how the store's servers have fared. Safe for concurrent use.
type StatsSource interface {
	// Stats reads one entry per shard, in the order and by the names of HealthChecker; in a Cluster one per node. It
	// asks no server, and holds up no decision. A store without servers returns nothing.
	Stats() []ShardStats
}

// ShardStats is how one shard has fared since the start. Numbers of type uint64 only grow; of a Cluster's shard they
// begin anew when another node takes its place.
type ShardStats struct {
	// Name is "shard-0" and so on: never an address, since it is shown.
	Name string
	// Breaker is the state of the circuit breaker, and Since when it got into it.
	Breaker BreakerState
	Since   time.Time
	// Up is false while the breaker is not closed, and after a call that failed.
	Up bool

	// Queued is the groups that wait to be sent, InFlight the batches that are under way.
	Queued   int
	InFlight int

	// Batches were sent, with Groups in them, whatever became of them. The breaker's probes are not among them.
	Batches uint64
	Groups  uint64
	// Failures counts the batches in which a failure of that kind occurred. It holds every kind, and is the caller's.
	Failures map[FailureKind]uint64
	// Refused groups were not sent because the breaker was open, Overloaded ones because too much was waiting.
	Refused    uint64
	Overloaded uint64
	// Openings counts how often the breaker opened.
	Openings uint64

	// BatchSeconds is the time of batches from sending to answer, BatchGroups their size.
	BatchSeconds Histogram
	BatchGroups  Histogram

	// ClockSkew is how far the server's clock is ahead of this process's, at the least: 0 while the difference is
	// within a round trip. No decision depends on it.
	ClockSkew time.Duration
}

// BreakerState is the state of a shard's circuit breaker.
type BreakerState string

// The states of a circuit breaker.
const (
	// BreakerClosed: the shard is asked.
	BreakerClosed BreakerState = "closed"
	// BreakerOpen: it is not, and the failure policy decides at once.
	BreakerOpen BreakerState = "open"
	// BreakerHalfOpen: the same, while a probe finds out whether the shard can decide.
	BreakerHalfOpen BreakerState = "half-open"
)

// FailureKind is the kind of a failure of a shard: a bounded set, for metrics.
type FailureKind string

// The kinds of failures.
const (
	FailureRefused     FailureKind = "refused"     // nobody listens there
	FailureDial        FailureKind = "dial"        // connecting failed in another way, or took too long
	FailureTLS         FailureKind = "tls"         // no secure connection came about
	FailurePool        FailureKind = "pool"        // no connection became free
	FailureTimeout     FailureKind = "timeout"     // no answer in time
	FailureClosed      FailureKind = "closed"      // the connection ended before the answer
	FailureGarbled     FailureKind = "garbled"     // the answer cannot be read
	FailureCancelled   FailureKind = "cancelled"   // the caller has gone
	FailureShutdown    FailureKind = "shutdown"    // the store was closed
	FailureAuth        FailureKind = "auth"        // NOAUTH, WRONGPASS
	FailureNoPerm      FailureKind = "noperm"      // the ACL lacks a command or a key
	FailureMaxClients  FailureKind = "maxclients"  // the server has too many connections
	FailureLoading     FailureKind = "loading"     // it reads its data
	FailureBusy        FailureKind = "busy"        // another script blocks it
	FailureOOM         FailureKind = "oom"         // its memory is full
	FailureReadOnly    FailureKind = "readonly"    // it is a replica
	FailureMasterDown  FailureKind = "masterdown"  // a replica that has lost its primary
	FailureNoReplicas  FailureKind = "noreplicas"  // a primary with too few replicas
	FailureMisconf     FailureKind = "misconf"     // it cannot save its data
	FailureClusterDown FailureKind = "clusterdown" // a part of the cluster is missing
	FailureMoved       FailureKind = "moved"       // MOVED, ASK, TRYAGAIN: redirected too often
	FailureCrossSlot   FailureKind = "crossslot"   // a mistake of ours
	FailureNoScript    FailureKind = "noscript"    // it does not keep the script that it was just sent
	FailureScript      FailureKind = "script"      // any other error that a server answered
	FailureWrongType   FailureKind = "wrongtype"   // a key of ours holds another type
	FailureCorrupt     FailureKind = "corrupt"     // a key of ours does not hold a bucket
)

// FailureKinds returns all kinds.
func FailureKinds() []FailureKind {
	return []FailureKind{
		FailureRefused, FailureDial, FailureTLS, FailurePool, FailureTimeout, FailureClosed, FailureGarbled,
		FailureCancelled, FailureShutdown, FailureAuth, FailureNoPerm, FailureMaxClients, FailureLoading, FailureBusy,
		FailureOOM, FailureReadOnly, FailureMasterDown, FailureNoReplicas, FailureMisconf, FailureClusterDown,
		FailureMoved, FailureCrossSlot, FailureNoScript, FailureScript, FailureWrongType, FailureCorrupt,
	}
}

// Histogram counts observations by size.
type Histogram struct {
	// Bounds are the inclusive upper bounds of the buckets, ascending; they are shared, and read only.
	Bounds []float64
	// Counts has one number per bound, and one more for what is above the last; each observation counts once.
	Counts []uint64
	// Sum of all observations.
	Sum float64
}
