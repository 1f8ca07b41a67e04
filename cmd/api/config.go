package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/velocity-limiter/velocity/internal/adapters/grpcenvoy"
	"github.com/velocity-limiter/velocity/internal/adapters/httpfiber"
	"github.com/velocity-limiter/velocity/internal/adapters/memstore"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/adapters/telemetry"
	"github.com/velocity-limiter/velocity/internal/app"
)

// config is all that can be set. Each room owns its part, and says itself what is wrong with it.
type config struct {
	Policy   policyConfig
	HTTP     httpfiber.Config
	GRPC     grpcenvoy.Config
	Admin    httpfiber.AdminConfig
	Store    storeConfig
	Redis    redisstore.Config
	Shortcut app.ShortcutConfig
	Memory   memstore.Config
	Log      telemetry.Config
}

// loadConfig reads the environment. The error reports every violation.
func loadConfig() (config, error) {
	var cfg config
	errs := []error{
		decodeAll(settingsOf(&cfg)),
		cfg.Store.mergeAddr(&cfg.Redis),
		cfg.Store.validate(&cfg.Redis),
		cfg.HTTP.Validate(),
		cfg.GRPC.Validate(),
		cfg.Admin.Validate(),
		cfg.Shortcut.Validate(),
		cfg.Memory.Validate(),
		cfg.Log.Validate(),
		cfg.Policy.validate(),
	}
	return cfg, errors.Join(errs...)
}

// storeKind says where the buckets are.
type storeKind string

const (
	storeAuto     storeKind = "auto"
	storeMemory   storeKind = "memory"
	storeRedis    storeKind = "redis"
	storeCluster  storeKind = "redis-cluster"
	storeSentinel storeKind = "redis-sentinel"
)

// topologies of the kinds that are in Redis.
var topologies = map[storeKind]redisstore.Topology{
	storeAuto:     redisstore.TopologyShards,
	storeRedis:    redisstore.TopologyShards,
	storeCluster:  redisstore.TopologyCluster,
	storeSentinel: redisstore.TopologySentinel,
}

type storeConfig struct {
	Kind storeKind `envconfig:"STORE" default:"auto" desc:"where the buckets are: redis, redis-cluster, redis-sentinel, memory, or auto: redis if an address is set, else memory"`
	// Addr is the one variable without our prefix: hosting platforms and compose files call it that.
	Addr string `envconfig:"REDIS_ADDR" unprefixed:"" desc:"the same as VELOCITY_REDIS_ADDRS; set one of them"`
}

// usesRedis reports where the buckets are; redis has the addresses of both settings.
func (c *storeConfig) usesRedis(redis *redisstore.Config) bool {
	return c.Kind != storeMemory && (c.Kind != storeAuto || len(redis.Addrs) > 0)
}

// mergeAddr moves REDIS_ADDR to where the store looks.
func (c *storeConfig) mergeAddr(redis *redisstore.Config) error {
	if c.Addr == "" {
		return nil
	}
	addrs := strings.Split(c.Addr, ",")
	for i := range addrs {
		addrs[i] = strings.TrimSpace(addrs[i])
	}
	if len(redis.Addrs) > 0 && !slices.Equal(addrs, redis.Addrs) {
		return errors.New("REDIS_ADDR: VELOCITY_REDIS_ADDRS is set, too, and differs: set one of them")
	}
	redis.Addrs = addrs
	return nil
}

// validate looks at the settings of Redis only if it is used, and tells them what the addresses are.
func (c *storeConfig) validate(redis *redisstore.Config) error {
	topology, inRedis := topologies[c.Kind]
	switch {
	case !inRedis && c.Kind != storeMemory:
		return fmt.Errorf("%sSTORE: %q: must be auto, memory, redis, redis-cluster or redis-sentinel", prefix, c.Kind)
	case c.usesRedis(redis):
		redis.Topology = topology
		return redis.Validate()
	}
	return nil
}

// violations lists what a joined error joins, each without the errors around it.
func violations(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var list []error
		for _, e := range joined.Unwrap() {
			list = append(list, violations(e)...)
		}
		return list
	}
	return []error{err}
}
