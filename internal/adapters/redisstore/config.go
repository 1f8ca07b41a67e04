package redisstore

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/secret"
	"github.com/velocity-limiter/velocity/internal/violation"
)

// Config says where the servers are and how to connect to them. The tags are envconfig's; errors name settings by them.
// The zero value is not valid: start from [DefaultConfig].
type Config struct {
	// Topology says what Addrs are; empty is TopologyShards. It has no setting of its own.
	Topology Topology `envconfig:"-"`
	// Client is the caller's own client, to be used instead of Addrs: a *redis.Client or a *redis.ClusterClient. The store
	// does not close it. No call runs the script twice, whatever the client's MaxRetries is.
	Client redis.UniversalClient `envconfig:"-" json:"-"`
	// Addrs has one entry per shard: "host:port" or "name=host:port". The name, or else the address, decides which
	// clients a shard owns: with a name, a dead host can be replaced without moving a client. An address may also be a
	// URL, redis://user:password@host:port/database or rediss:// for TLS; what it says replaces Username and Password.
	Addrs []string `envconfig:"REDIS_ADDRS" desc:"comma list of host:port or name=host:port, one shard each, or seeds of a cluster, or sentinels; a URL redis://user:password@host:port/database, or rediss:// for TLS, may stand for host:port; empty: buckets in memory"`
	// Strategy maps clients to shards.
	Strategy Strategy `envconfig:"SHARD_STRATEGY" default:"rendezvous" desc:"how clients are spread over shards: rendezvous moves few of them when the list changes, modulo most"`

	Username string        `envconfig:"REDIS_USERNAME" desc:"ACL user; empty: the default user"`
	Password secret.Secret `envconfig:"REDIS_PASSWORD" desc:"its password"`

	// Credentials, if it is not nil, replaces Username and Password. It is called for each new connection, from several
	// goroutines, within the budget of a decision: it must return what is at hand. No connection is kept for longer than
	// 5.5 minutes, so what it returns must be valid for that long. The password of a URL has precedence. What a server says
	// of a wrong password never shows it; an error of Credentials must not, either.
	Credentials func(context.Context) (username, password string, err error) `envconfig:"-" json:"-"`

	// Database is the number of the database; a URL may name another one.
	Database int `envconfig:"-"`

	// SentinelMaster is the name under which the sentinels know the primary.
	SentinelMaster   string        `envconfig:"REDIS_SENTINEL_MASTER" desc:"name of the primary that the sentinels watch"`
	SentinelUsername string        `envconfig:"REDIS_SENTINEL_USERNAME" desc:"ACL user of the sentinels; empty: their default user"`
	SentinelPassword secret.Secret `envconfig:"REDIS_SENTINEL_PASSWORD" desc:"its password"`
	// SentinelCredentials, if it is not nil, replaces SentinelUsername and SentinelPassword, as Credentials does for servers.
	SentinelCredentials func(context.Context) (username, password string, err error) `envconfig:"-" json:"-"`

	// TLS turns encryption on. Without a CA file the system's certificate authorities are trusted.
	TLS         bool   `envconfig:"REDIS_TLS" default:"false" desc:"speak TLS to Redis"`
	TLSCAFile   string `envconfig:"REDIS_TLS_CA_FILE" desc:"PEM file of the authorities that sign the servers' certificates; empty: those of the system"`
	TLSCertFile string `envconfig:"REDIS_TLS_CERT_FILE" desc:"client certificate, PEM, where the servers ask for one"` // the client's own certificate, where the server asks for one
	TLSKeyFile  string `envconfig:"REDIS_TLS_KEY_FILE" desc:"its private key, PEM"`
	// TLSServerName is the name that the servers' certificates must carry, where it is not the host of the address.
	TLSServerName string `envconfig:"REDIS_TLS_SERVER_NAME" desc:"name in the servers' certificates; empty: the host of the address"`
	// TLSConfig, if it is not nil, turns encryption on and replaces the files. It is not changed.
	TLSConfig *tls.Config `envconfig:"-" json:"-"`

	// PoolSize is the most connections to one shard.
	PoolSize int `envconfig:"REDIS_POOL_SIZE" default:"16" desc:"most connections to one shard"`
	// DialTimeout bounds one attempt to connect, with its TLS handshake. An attempt goes on after the request that
	// caused it has failed, and its connection serves a later request.
	DialTimeout  time.Duration `envconfig:"REDIS_DIAL_TIMEOUT" default:"500ms" desc:"time to connect to a shard"`
	connLifetime time.Duration `envconfig:"-"` // for tests; 0: that of package conn
	separate     bool          `envconfig:"-"` // for tests: equal requests are groups of their own, on shards of a list
	// TakeTimeout is the budget of one call of the store: it covers queueing, connecting, sending and waiting.
	TakeTimeout time.Duration `envconfig:"TAKE_TIMEOUT" default:"50ms" desc:"budget of one decision at the store; past it the failure policy decides"`
}

// Topology says what the addresses of a [Config] are, and who decides which server owns a client.
type Topology string

// The topologies.
const (
	// TopologyShards is a list of servers that do not know each other: this package routes each client to one of them.
	TopologyShards Topology = "shards"
	// TopologyCluster is a Redis Cluster, whose nodes say which of them owns a client. The addresses are its seeds.
	TopologyCluster Topology = "cluster"
	// TopologySentinel is one primary, whose address the sentinels at the addresses know.
	TopologySentinel Topology = "sentinel"
)

func (t Topology) valid() bool {
	return t == TopologyShards || t == TopologyCluster || t == TopologySentinel
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
	maxDatabase = 1<<31 - 1
	maxTimeout  = time.Minute
)

// Validate reports every violation at once, as [violation.Error]s, each with the value found, never a secret.
func (c *Config) Validate() error {
	var v violation.List
	if c.Client != nil {
		c.validateClient(&v)
	} else {
		list, err := c.addresses()
		v.AddError(err)
		c.validateTopology(&v)
		c.validateTLS(&v, list)
	}
	if c.Username != "" && c.Password == "" {
		v.Add("REDIS_USERNAME", strconv.Quote(c.Username), "needs {REDIS_PASSWORD}")
	}
	if c.Database < 0 || c.Database > maxDatabase {
		v.Add("REDIS_DATABASE", strconv.Itoa(c.Database), "must be the number of a database")
	}
	if c.PoolSize < 1 || c.PoolSize > maxPoolSize {
		v.Add("REDIS_POOL_SIZE", strconv.Itoa(c.PoolSize), "must be from 1 to "+strconv.Itoa(maxPoolSize))
	}
	for _, s := range []struct {
		setting string
		value   time.Duration
	}{{"REDIS_DIAL_TIMEOUT", c.DialTimeout}, {"TAKE_TIMEOUT", c.TakeTimeout}} {
		if s.value < time.Millisecond || s.value > maxTimeout {
			v.Add(s.setting, s.value.String(), "must be from 1ms to "+maxTimeout.String())
		}
	}
	return v.Err()
}

// validateTopology also refuses settings that the topology would ignore: a setting without effect is a mistake.
func (c *Config) validateTopology(v *violation.List) {
	bad := func(setting, value, reason string) { v.Add(setting, strconv.Quote(value), reason) }
	switch {
	case !c.topology().valid():
		bad("STORE", string(c.Topology), "is no topology")
	case !c.Strategy.valid():
		bad("SHARD_STRATEGY", string(c.Strategy), "must be rendezvous or modulo")
	case c.topology() != TopologyShards && c.Strategy != StrategyRendezvous:
		bad("SHARD_STRATEGY", string(c.Strategy), "has no effect: there is no list of shards")
	}
	if c.topology() == TopologyCluster && c.Database != 0 {
		v.Add("REDIS_DATABASE", strconv.Itoa(c.Database), "has no effect: a Redis Cluster has one database")
	}
	if c.topology() == TopologySentinel {
		if c.SentinelMaster == "" || strings.ContainsAny(c.SentinelMaster, " \t\r\n") {
			bad("REDIS_SENTINEL_MASTER", c.SentinelMaster, "must be the name of the primary in the sentinels' configuration")
		}
		if c.SentinelUsername != "" && c.SentinelPassword == "" {
			bad("REDIS_SENTINEL_USERNAME", c.SentinelUsername, "needs {REDIS_SENTINEL_PASSWORD}")
		}
		return
	}
	v.NoEffect("without {STORE}=redis-sentinel",
		violation.Text{Setting: "REDIS_SENTINEL_MASTER", Value: c.SentinelMaster},
		violation.Text{Setting: "REDIS_SENTINEL_USERNAME", Value: c.SentinelUsername},
		violation.Text{Setting: "REDIS_SENTINEL_PASSWORD", Value: c.SentinelPassword.String()},
	)
}

// validateTLS checks the settings of TLS for these addresses.
func (c *Config) validateTLS(v *violation.List, list []address) {
	files := []violation.Text{
		{Setting: "REDIS_TLS_CA_FILE", Value: c.TLSCAFile},
		{Setting: "REDIS_TLS_CERT_FILE", Value: c.TLSCertFile},
		{Setting: "REDIS_TLS_KEY_FILE", Value: c.TLSKeyFile},
		{Setting: "REDIS_TLS_SERVER_NAME", Value: c.TLSServerName},
	}
	switch {
	case c.TLSConfig != nil:
		v.NoEffect("with {REDIS_TLS_CONFIG}", files...)
	case !c.TLS && !slices.ContainsFunc(list, func(a address) bool { return a.url.scheme == schemeTLS }):
		v.NoEffect("without {REDIS_TLS}=true", files...)
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		v.Add("REDIS_TLS_CERT_FILE", strconv.Quote(c.TLSCertFile), "must be set together with {REDIS_TLS_KEY_FILE}")
	}
	for _, a := range list {
		switch {
		case a.url.scheme != schemePlain:
		case c.TLSConfig != nil:
			v.Add("REDIS_ADDRS", strconv.Quote(a.hostPort), "redis:// is without TLS, but {REDIS_TLS_CONFIG} is set: write rediss://")
		case c.TLS:
			v.Add("REDIS_ADDRS", strconv.Quote(a.hostPort), "redis:// is without TLS, but {REDIS_TLS} is set: write rediss://")
		}
	}
}

// validateClient checks the caller's client, and refuses settings that say how to make another one.
func (c *Config) validateClient(v *violation.List) {
	const setting = "REDIS_CLIENT"
	switch client := c.Client.(type) {
	case *redis.Client:
		if client == nil {
			v.Add(setting, "", "is a nil *redis.Client")
		}
	case *redis.ClusterClient:
		if client == nil {
			v.Add(setting, "", "is a nil *redis.ClusterClient")
		}
	case *redis.Ring:
		v.Add(setting, "", "must not be a *redis.Ring: while a server is down it moves keys to others, where every bucket is full; list the servers in {REDIS_ADDRS}")
	default:
		v.Add(setting, fmt.Sprintf("%T", client), "must be a *redis.Client or a *redis.ClusterClient")
	}
	database, useTLS := "", ""
	if len(c.Addrs) > 0 { // not shown, since a URL may hold a password
		v.Add("REDIS_ADDRS", "", "has no effect with {REDIS_CLIENT}")
	}
	if c.Database != 0 {
		database = strconv.Itoa(c.Database)
	}
	if c.TLS {
		useTLS = "true"
	}
	v.NoEffect("with {REDIS_CLIENT}",
		violation.Text{Setting: "REDIS_USERNAME", Value: c.Username},
		violation.Text{Setting: "REDIS_PASSWORD", Value: c.Password.String()},
		violation.Text{Setting: "REDIS_DATABASE", Value: database},
		violation.Text{Setting: "REDIS_SENTINEL_MASTER", Value: c.SentinelMaster},
		violation.Text{Setting: "REDIS_TLS", Value: useTLS},
		violation.Text{Setting: "REDIS_TLS_CA_FILE", Value: c.TLSCAFile},
	)
	if c.TLSConfig != nil {
		v.Add("REDIS_TLS_CONFIG", "", "has no effect with {REDIS_CLIENT}")
	}
	if c.Credentials != nil {
		v.Add("REDIS_CREDENTIALS", "", "has no effect with {REDIS_CLIENT}")
	}
	if c.topology() == TopologyCluster {
		v.Add("REDIS_CLUSTER", "true", "has no effect with {REDIS_CLIENT}")
	}
}

func (c *Config) topology() Topology { return cmp.Or(c.Topology, TopologyShards) }

// addresses parses Addrs and reports every entry that is wrong. A Cluster and Sentinel have no use for names.
func (c *Config) addresses() ([]address, error) {
	list, err := parseAddresses(c.Addrs)
	if c.topology() == TopologyShards {
		return list, err
	}
	var v violation.List
	v.AddError(err)
	for _, a := range list {
		switch {
		case a.name != "":
			v.Add("REDIS_ADDRS", strconv.Quote(a.name+"="+a.hostPort), "a name has no effect: there is no list of shards")
		case a.url.scheme != "" && c.topology() == TopologySentinel:
			v.Add("REDIS_ADDRS", strconv.Quote(a.hostPort), "the address of a sentinel must be host:port, not a URL")
		case a.url.database != 0:
			v.Add("REDIS_ADDRS", strconv.Quote(a.hostPort), "a Redis Cluster has one database: write no number")
		case a.url != list[0].url:
			v.Add("REDIS_ADDRS", strconv.Quote(a.hostPort), "the nodes of a Redis Cluster must have one scheme, user and password")
		}
	}
	return list, v.Err()
}
