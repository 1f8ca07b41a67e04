package redisstore

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Topology says what the addresses of a [Config] are, and who decides which server owns a client.
type Topology string

// The topologies.
const (
	// TopologyShards is a list of servers that know nothing of each other: this package spreads the clients.
	TopologyShards Topology = "shards"
	// TopologyCluster is a Redis Cluster, whose nodes say which of them owns a client. The addresses are its seeds.
	TopologyCluster Topology = "cluster"
	// TopologySentinel is one primary, which the sentinels at the addresses watch over, and name.
	TopologySentinel Topology = "sentinel"
)

func (t Topology) valid() bool {
	return t == TopologyShards || t == TopologyCluster || t == TopologySentinel
}

// topology knows the servers, and which of them owns a client. What it is asked with is the text between the braces
// of a key.
type topology interface {
	// batcherFor returns the batcher through which the owner is asked. It does not wait for a server.
	batcherFor(text string) *batcher
	// clientFor returns the client of the owner, as far as that is known.
	clientFor(text string) *redis.Client
	// probes returns what to ask each server to learn whether it can decide.
	probes(ctx context.Context) []probe
	// stats tells how the servers have fared, without asking them.
	stats() []ports.ShardStats
	// describe lists the servers that are configured.
	describe() []Shard
	Close() error
}

// probe is a question to one server.
type probe struct {
	name    string
	key     domain.BucketKey // one that the server owns
	batcher *batcher
	err     error // why there is no batcher
}
