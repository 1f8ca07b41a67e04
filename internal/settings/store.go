package settings

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/violation"
)

// topologies maps the values of VELOCITY_STORE that use Redis to how its servers are arranged.
var topologies = map[string]redisstore.Topology{
	storeAuto:        redisstore.TopologyShards,
	"redis":          redisstore.TopologyShards,
	"redis-cluster":  redisstore.TopologyCluster,
	"redis-sentinel": redisstore.TopologySentinel,
}

const storeAuto, storeMemory = "auto", "memory"

// Store selects where the buckets are kept.
type Store struct {
	Kind string `envconfig:"STORE" default:"auto" desc:"where the buckets are: redis, redis-cluster, redis-sentinel, memory, or auto: redis if an address is set, else memory"`
	// Addr has no prefix: hosting platforms and compose files use this name.
	Addr string `envconfig:"REDIS_ADDR" unprefixed:"" desc:"the same as VELOCITY_REDIS_ADDRS; set one of them"`
}

// UsesRedis reports whether the buckets are kept in Redis, given the settings that [Load] returned for it.
func (s *Store) UsesRedis(redis *redisstore.Config) bool {
	return s.Kind != storeMemory && (s.Kind != storeAuto || len(redis.Addrs) > 0)
}

// mergeAddr copies REDIS_ADDR to VELOCITY_REDIS_ADDRS.
func (s *Store) mergeAddr(redis *redisstore.Config) error {
	if s.Addr == "" {
		return nil
	}
	var addrs []string
	for addr := range strings.SplitSeq(s.Addr, ",") {
		addrs = append(addrs, strings.TrimSpace(addr))
	}
	if len(redis.Addrs) > 0 && !slices.Equal(addrs, redis.Addrs) {
		return errors.New("REDIS_ADDR: " + prefix + "REDIS_ADDRS is set, too, and differs: set one of them")
	}
	redis.Addrs = addrs
	return nil
}

// validate checks the settings of Redis only if it is used. It also sets their topology.
func (s *Store) validate(redis *redisstore.Config) error {
	topology, inRedis := topologies[s.Kind]
	switch {
	case !inRedis && s.Kind != storeMemory:
		return &violation.Error{
			Setting: "STORE", Value: strconv.Quote(s.Kind), Reason: "must be auto, memory, redis, redis-cluster or redis-sentinel",
		}
	case s.UsesRedis(redis):
		redis.Topology = topology
		return redis.Validate()
	}
	return nil
}
