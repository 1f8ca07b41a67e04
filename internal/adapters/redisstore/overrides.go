package redisstore

import (
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/conn"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/overrides"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// overridesPool is the most connections to one server about overrides. One follows; changes need some more.
const overridesPool = 4

// Overrides returns a store of overrides on the servers of this manager, with connections of its own, so that no decision waits for
// it. Close it before the manager. A manager of the caller's own client has none.
func (m *RedisShardManager) Overrides(bounds ports.OverrideBounds) (*overrides.Store, error) {
	if m.connectAgain == nil {
		return nil, errors.New("overrides need connections of their own")
	}
	var servers []overrides.Server
	for i, client := range m.connectAgain() {
		servers = append(servers, overrides.Server{Name: m.shards[i].Name, Client: client})
	}
	return overrides.New(servers, bounds), nil
}

// overrideClients returns clients of the servers: one of a Cluster, else one for each shard.
func (cfg *Config) overrideClients(addresses []address, options []*conn.Options) (clients []redis.UniversalClient) {
	own := make([]conn.Options, len(options))
	for i, o := range options {
		own[i] = *o
		own[i].PoolSize, own[i].Timeout = overridesPool, overrides.Timeout
	}
	switch cfg.topology() {
	case TopologyCluster:
		return []redis.UniversalClient{own[0].Cluster(hostPorts(addresses))}
	case TopologySentinel:
		return []redis.UniversalClient{own[0].Failover(cfg.sentinel(addresses), func() {})}
	default:
		for i := range own {
			clients = append(clients, own[i].Client(addresses[i].hostPort))
		}
		return clients
	}
}

func (cfg *Config) sentinel(addresses []address) conn.Sentinel {
	s := conn.Sentinel{
		Primary: cfg.SentinelMaster, Addrs: hostPorts(addresses),
		Credentials: conn.Fixed(cfg.SentinelUsername, string(cfg.SentinelPassword)),
	}
	if cfg.SentinelCredentials != nil {
		s.Credentials = cfg.SentinelCredentials
	}
	return s
}
