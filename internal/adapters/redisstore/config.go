package redisstore

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// envPrefix is what the names in the struct tags are relative to. Violations name settings whole.
const envPrefix = "VELOCITY_"

// Config is where the servers are and how they are spoken to. The tags are envconfig's.
// The zero value is not valid: start from [DefaultConfig].
type Config struct {
	// Addrs has one entry per shard: "host:port" or "name=host:port". What decides which clients a shard owns is
	// its name, else its address: with a name, a dead host can be replaced without moving anyone.
	Addrs []string `envconfig:"REDIS_ADDRS" desc:"comma list of host:port or name=host:port, one shard each; empty: buckets in memory"`
	// Strategy maps clients to shards.
	Strategy Strategy `envconfig:"SHARD_STRATEGY" default:"rendezvous" desc:"how clients are spread over shards: rendezvous moves few of them when the list changes, modulo most"`

	Username string `envconfig:"REDIS_USERNAME" desc:"ACL user; empty: the default user"`
	Password Secret `envconfig:"REDIS_PASSWORD" desc:"its password"`

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
	if _, err := parseAddresses(c.Addrs); err != nil {
		errs = append(errs, err)
	}
	if !c.Strategy.valid() {
		bad("SHARD_STRATEGY", strconv.Quote(string(c.Strategy)), "must be rendezvous or modulo")
	}
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
