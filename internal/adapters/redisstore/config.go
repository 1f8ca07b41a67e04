package redisstore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// envPrefix is what the names in the struct tags are relative to. Violations name settings whole.
const envPrefix = "VELOCITY_"

// Config is where the servers are and how they are spoken to. The tags are envconfig's.
// The zero value is not valid: start from [DefaultConfig].
type Config struct {
	// Topology says what Addrs are; empty is TopologyShards. Who composes the service sets it.
	Topology Topology `envconfig:"-"`
	// Addrs has one entry per shard: "host:port" or "name=host:port". What decides which clients a shard owns is
	// its name, else its address: with a name, a dead host can be replaced without moving anyone.
	Addrs []string `envconfig:"REDIS_ADDRS" desc:"comma list of host:port or name=host:port, one shard each, or seeds of a cluster, or sentinels; empty: buckets in memory"`
	// Strategy maps clients to shards.
	Strategy Strategy `envconfig:"SHARD_STRATEGY" default:"rendezvous" desc:"how clients are spread over shards: rendezvous moves few of them when the list changes, modulo most"`

	Username string `envconfig:"REDIS_USERNAME" desc:"ACL user; empty: the default user"`
	Password Secret `envconfig:"REDIS_PASSWORD" desc:"its password"`

	// SentinelMaster is the name under which the sentinels know the primary.
	SentinelMaster   string `envconfig:"REDIS_SENTINEL_MASTER" desc:"name of the primary that the sentinels watch"`
	SentinelUsername string `envconfig:"REDIS_SENTINEL_USERNAME" desc:"ACL user of the sentinels; empty: their default user"`
	SentinelPassword Secret `envconfig:"REDIS_SENTINEL_PASSWORD" desc:"its password"`

	// TLS turns encryption on. Without a CA file the system's certificate authorities are trusted.
	TLS         bool   `envconfig:"REDIS_TLS" default:"false" desc:"speak TLS to Redis"`
	TLSCAFile   string `envconfig:"REDIS_TLS_CA_FILE" desc:"PEM file of the authorities that sign the servers' certificates; empty: those of the system"`
	TLSCertFile string `envconfig:"REDIS_TLS_CERT_FILE" desc:"client certificate, PEM, where the servers ask for one"` // the client's own certificate, where the server asks for one
	TLSKeyFile  string `envconfig:"REDIS_TLS_KEY_FILE" desc:"its private key, PEM"`
	// TLSServerName is the name that the servers' certificates must carry, where it is not the host of the address.
	TLSServerName string `envconfig:"REDIS_TLS_SERVER_NAME" desc:"name in the servers' certificates; empty: the host of the address"`

	// PoolSize is the most connections to one shard.
	PoolSize int `envconfig:"REDIS_POOL_SIZE" default:"16" desc:"most connections to one shard"`
	// DialTimeout bounds one attempt to connect, with its TLS handshake. An attempt goes on when the request that
	// caused it has given up, and serves a later one.
	DialTimeout time.Duration `envconfig:"REDIS_DIAL_TIMEOUT" default:"500ms" desc:"time to connect to a shard"`
	// TakeTimeout is the budget of one call of the store: it covers queueing, connecting, sending and waiting.
	TakeTimeout time.Duration `envconfig:"TAKE_TIMEOUT" default:"50ms" desc:"budget of one decision at the store; past it the failure policy decides"`
}

// DefaultConfig returns the defaults for these addresses.
func DefaultConfig(addrs ...string) Config {
	return Config{
		Topology:    TopologyShards,
		Addrs:       addrs,
		Strategy:    StrategyRendezvous,
		PoolSize:    16,
		DialTimeout: 500 * time.Millisecond,
		TakeTimeout: 50 * time.Millisecond,
	}
}

const (
	maxShards   = 1024
	maxPoolSize = 1024
	maxTimeout  = time.Minute
)

// Validate reports every violation at once, each with the value found, never a secret.
func (c *Config) Validate() error {
	var errs []error
	bad := func(setting, value, rule string) {
		errs = append(errs, fmt.Errorf("%s%s: %s: %s", envPrefix, setting, value, rule))
	}
	if _, err := c.addresses(); err != nil {
		errs = append(errs, err)
	}
	c.validateTopology(bad)
	if c.Username != "" && c.Password == "" {
		bad("REDIS_USERNAME", strconv.Quote(c.Username), "needs "+envPrefix+"REDIS_PASSWORD")
	}
	if !c.TLS {
		for _, s := range []struct{ setting, value string }{
			{"REDIS_TLS_CA_FILE", c.TLSCAFile},
			{"REDIS_TLS_CERT_FILE", c.TLSCertFile},
			{"REDIS_TLS_KEY_FILE", c.TLSKeyFile},
			{"REDIS_TLS_SERVER_NAME", c.TLSServerName},
		} {
			if s.value != "" {
				bad(s.setting, strconv.Quote(s.value), "has no effect without "+envPrefix+"REDIS_TLS=true")
			}
		}
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		bad("REDIS_TLS_CERT_FILE", strconv.Quote(c.TLSCertFile), "must be set together with "+envPrefix+"REDIS_TLS_KEY_FILE")
	}
	if c.PoolSize < 1 || c.PoolSize > maxPoolSize {
		bad("REDIS_POOL_SIZE", strconv.Itoa(c.PoolSize), "must be from 1 to "+strconv.Itoa(maxPoolSize))
	}
	for _, s := range []struct {
		setting string
		value   time.Duration
	}{{"REDIS_DIAL_TIMEOUT", c.DialTimeout}, {"TAKE_TIMEOUT", c.TakeTimeout}} {
		if s.value < time.Millisecond || s.value > maxTimeout {
			bad(s.setting, s.value.String(), "must be from 1ms to "+maxTimeout.String())
		}
	}
	return errors.Join(errs...)
}

// validateTopology refuses what the topology would ignore: a setting without effect is a mistake.
func (c *Config) validateTopology(bad func(setting, value, rule string)) {
	switch {
	case !c.topology().valid():
		bad("STORE", strconv.Quote(string(c.Topology)), "is no topology")
	case !c.Strategy.valid():
		bad("SHARD_STRATEGY", strconv.Quote(string(c.Strategy)), "must be rendezvous or modulo")
	case c.topology() != TopologyShards && c.Strategy != StrategyRendezvous:
		bad("SHARD_STRATEGY", strconv.Quote(string(c.Strategy)), "has no effect: there is no list of shards")
	}
	if c.topology() == TopologySentinel {
		if c.SentinelMaster == "" || strings.ContainsAny(c.SentinelMaster, " \t\r\n") {
			bad("REDIS_SENTINEL_MASTER", strconv.Quote(c.SentinelMaster), "must be the name of the primary in the sentinels' configuration")
		}
		if c.SentinelUsername != "" && c.SentinelPassword == "" {
			bad("REDIS_SENTINEL_USERNAME", strconv.Quote(c.SentinelUsername), "needs "+envPrefix+"REDIS_SENTINEL_PASSWORD")
		}
		return
	}
	for _, s := range []struct{ setting, value string }{
		{"REDIS_SENTINEL_MASTER", c.SentinelMaster},
		{"REDIS_SENTINEL_USERNAME", c.SentinelUsername},
		{"REDIS_SENTINEL_PASSWORD", c.SentinelPassword.String()},
	} {
		if s.value != "" {
			bad(s.setting, strconv.Quote(s.value), "has no effect without "+envPrefix+"STORE=redis-sentinel")
		}
	}
}

func (c *Config) topology() Topology {
	if c.Topology == "" {
		return TopologyShards
	}
	return c.Topology
}

// addresses parses Addrs and reports every entry that is wrong. Names place clients on shards, which neither a
// cluster nor Sentinel lets us do.
func (c *Config) addresses() ([]address, error) {
	list, err := parseAddresses(c.Addrs)
	if c.topology() == TopologyShards {
		return list, err
	}
	errs := []error{err}
	for _, a := range list {
		if a.name != "" {
			errs = append(errs, fmt.Errorf(envPrefix+"REDIS_ADDRS: %q: a name has no effect: there is no list of shards", a.name+"="+a.hostPort))
		}
	}
	return list, errors.Join(errs...)
}
