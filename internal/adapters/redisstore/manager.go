package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/batch"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/cluster"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/conn"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
)

// RedisShardManager holds one client per shard and maps every user to one of them, always the same as long as the
// list of shards does not change; in a Redis Cluster, as long as the cluster moves no slot. It connects to nothing
// until a client is used. Safe for concurrent use.
type RedisShardManager struct {
	batch.Events
	onFailover atomic.Pointer[func()]
	dialer     *conn.Dialer
	topology   topology
	shards     []Shard
	digest     string
	closed     atomic.Bool // the store asks no server any more
	// connectAgain makes further clients of the servers; nil if the client is the caller's.
	connectAgain func() []redis.UniversalClient
}

// Shard describes one shard of the list.
type Shard struct {
	Name     string // "shard-0" and so on, in the configured order: safe to show
	Identity string // decides which clients the shard owns: the configured name, else the address, with /database if it is not 0
	Addr     string // host:port: for logs only
}

// NewRedisShardManager makes a manager of these shards, each "host:port" or "name=host:port", with the defaults of
// [DefaultConfig]. The error reports every address that is wrong.
func NewRedisShardManager(addresses ...string) (*RedisShardManager, error) {
	return newShardManager(DefaultConfig(addresses...), script.New(script.Source))
}

func newShardManager(cfg Config, take *script.Script) (*RedisShardManager, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := &RedisShardManager{dialer: conn.NewDialer()}
	if cfg.Client != nil {
		m.use(cfg, take)
		return m, nil
	}
	addresses, err := cfg.addresses()
	if err != nil {
		return nil, err
	}
	general, err := cfg.connOptions()
	if err != nil {
		return nil, err
	}
	general.Dialer = m.dialer
	options := make([]*conn.Options, len(addresses))
	for i, a := range addresses {
		if options[i], err = cfg.connOptionsFor(a, general); err != nil {
			return nil, err
		}
	}
	m.connect(cfg, addresses, options, take)
	return m, nil
}

// use makes the caller's client the only shard.
func (m *RedisShardManager) use(cfg Config, take *script.Script) {
	switch client := cfg.Client.(type) {
	case *redis.Client:
		addr := client.Options().Addr
		m.shards = []Shard{{Name: batch.ShardName(0), Identity: addr, Addr: addr}}
		list := &shardList{strategy: cfg.Strategy, borrowed: true}
		list.add(&cfg, m.shards[0], conn.Borrow(client, cfg.TakeTimeout), take, &m.Events)
		m.topology = list
	case *redis.ClusterClient:
		for i, addr := range client.Options().Addrs {
			m.shards = append(m.shards, Shard{Name: "seed-" + strconv.Itoa(i), Identity: addr, Addr: addr})
		}
		m.topology = cluster.Borrow(client, take, cfg.TakeTimeout, &m.Events, m.failedOver)
	}
}

// connect makes a client for each address.
func (m *RedisShardManager) connect(cfg Config, addresses []address, options []*conn.Options, take *script.Script) {
	m.connectAgain = func() []redis.UniversalClient { return cfg.overrideClients(addresses, options) }
	list := &shardList{strategy: cfg.Strategy}
	m.topology = list
	switch cfg.topology() {
	case TopologyCluster:
		for i, a := range addresses {
			m.shards = append(m.shards, Shard{Name: "seed-" + strconv.Itoa(i), Identity: a.identity(), Addr: a.hostPort})
		}
		m.topology = cluster.New(options[0].Cluster(hostPorts(addresses)), options[0].Client(addresses[0].hostPort), take,
			cfg.TakeTimeout, &m.Events, m.failedOver)
	case TopologySentinel:
		sentinel := cfg.sentinel(addresses)
		primary := Shard{Name: batch.ShardName(0), Identity: cfg.SentinelMaster, Addr: strings.Join(sentinel.Addrs, ",")}
		m.shards = []Shard{primary}
		list.add(&cfg, primary, options[0].Failover(sentinel, m.failedOver), take, &m.Events)
	default:
		for i, a := range addresses {
			s := Shard{Name: batch.ShardName(i), Identity: a.identity(), Addr: a.hostPort}
			m.shards = append(m.shards, s)
			list.add(&cfg, s, options[i].Client(a.hostPort), take, &m.Events)
		}
		m.digest = routingDigest(cfg.Strategy, m.shards)
	}
}

// routingDigest returns a text that is equal for lists of shards that route every client alike. It is empty for one shard.
func routingDigest(strategy Strategy, shards []Shard) string {
	if len(shards) == 1 {
		return ""
	}
	parts := []string{string(strategy)}
	for _, s := range shards {
		parts = append(parts, s.Identity)
	}
	if strategy == StrategyRendezvous {
		slices.Sort(parts) // the order of the shards does not matter
	}
	return strconv.FormatUint(hash(strings.Join(parts, "\n")), 16)
}

// GetClient returns the client of the shard that owns userID. For a bucket that is the text of its key,
// clientkey.BucketKey, which in Redis stands between the braces: "default:ip=192.0.2.7" is kept under
// "velocity:{default:ip=192.0.2.7}". In a cluster it is the owner as far as is known, which may take a round trip to
// find out the first time; a command for a key that has moved is redirected, and the caller must follow that. It is nil
// while no node of the caller's own ClusterClient has answered.
func (m *RedisShardManager) GetClient(userID string) *redis.Client {
	return m.topology.ClientFor(userID)
}

// Shards describes the shards, in the configured order. Behind Sentinel there is one, at the addresses of the
// sentinels; of a Cluster these are the seeds.
func (m *RedisShardManager) Shards() []Shard { return slices.Clone(m.shards) }

// RoutingDigest returns a short text that differs where clients are routed to shards differently: nodes that share shards
// must agree on it. It is empty if there is one shard, and if a Cluster or Sentinel routes them.
func (m *RedisShardManager) RoutingDigest() string { return m.digest }

// OnFailover sets the function that is called whenever a primary was replaced by another server, which may know less than
// the old one did. So what was learned from the old one must not be relied on. Behind Sentinel the function has returned
// before the new primary decides anything; in a Cluster it is called soon after. It must not block.
func (m *RedisShardManager) OnFailover(f func()) { m.onFailover.Store(&f) }

func (m *RedisShardManager) failedOver() {
	if f := m.onFailover.Load(); f != nil {
		(*f)()
	}
}

// Close closes every client but the caller's own. Calls that are under way fail. No goroutine is left afterwards that waits
// for a server; one of go-redis may pause for 0.2 s after a reading of a Cluster's table of slots. What go-redis still does with
// the caller's client goes on, and is not waited for.
func (m *RedisShardManager) Close() error {
	m.closed.Store(true)
	m.topology.Stop() // first: what fails from here on is no failure of a server
	m.dialer.Close()
	if err := m.topology.Close(); !errors.Is(err, net.ErrClosed) { // the dialer has closed the connections
		return err
	}
	return nil
}

// SetLogger sends go-redis's log lines to log, instead of to the standard error. They are about the connections of its pools;
// the failures of commands are returned to their callers and are not logged. go-redis has one logger for the whole process:
// set it before the first client is made.
func SetLogger(log func(msg string)) { redis.SetLogger(logFunc(log)) }

type logFunc func(msg string)

// Printf implements go-redis's logger.
func (f logFunc) Printf(_ context.Context, format string, args ...any) {
	f(fmt.Sprintf(format, args...))
}
