package redisstore

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/ports"
)

// RedisShardManager holds one client per shard and maps every user to one of them, always the same as long as the
// list of shards does not change; in a Redis Cluster, as long as the cluster moves no slot. It connects to nothing
// until a client is used. Safe for concurrent use.
type RedisShardManager struct {
	// list is immutable and swapped whole, so that a decision sees one list from beginning to end.
	list    atomic.Pointer[shardList]
	cluster *cluster // instead of a list
	notices notices
}

// Shard describes one shard of the list.
type Shard struct {
	Name     string // "shard-0" and so on, in the configured order: safe to show
	Identity string // what places clients on it: the configured name, else the address
	Addr     string // host:port: for logs alone
}

type shard struct {
	Shard
	client  *redis.Client
	batcher *batcher
}

type shardList struct {
	shards   []*shard
	seeds    []uint64 // the hashes of the identities, in the order of shards
	strategy Strategy
}

// NewRedisShardManager makes a manager of these shards, each "host:port" or "name=host:port", with the defaults of
// [DefaultConfig]. The error reports every address that is wrong.
func NewRedisShardManager(addresses ...string) (*RedisShardManager, error) {
	return newShardManager(DefaultConfig(addresses...), newScript(takeSource))
}

func newShardManager(cfg Config, script *script) (*RedisShardManager, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	addresses, err := cfg.addresses()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.tlsConfig()
	if err != nil {
		return nil, err
	}
	m := &RedisShardManager{}
	if cfg.Topology == TopologyCluster {
		m.cluster = newCluster(&cfg, addresses, tlsConfig, script, &m.notices)
		return m, nil
	}
	list := &shardList{strategy: cfg.Strategy}
	if cfg.Topology == TopologySentinel {
		primary := Shard{Name: shardName(0), Identity: cfg.SentinelMaster, Addr: strings.Join(hostPorts(addresses), ",")}
		list.add(primary, cfg.newFailoverClient(addresses, tlsConfig, m.notices.failedOver), script, cfg.TakeTimeout, &m.notices)
	} else {
		for i, a := range addresses {
			list.add(Shard{Name: shardName(i), Identity: a.identity(), Addr: a.hostPort},
				cfg.newClient(a.hostPort, tlsConfig), script, cfg.TakeTimeout, &m.notices)
		}
	}
	m.list.Store(list)
	return m, nil
}

func shardName(i int) string { return "shard-" + strconv.Itoa(i) }

func (l *shardList) add(s Shard, client *redis.Client, script *script, budget time.Duration, notices *notices) {
	send := func(ctx context.Context, groups []*group) error {
		return script.decide(ctx, client, s.Name, groups)
	}
	questions := questions{
		probe:       func(ctx context.Context) error { return probeWith(ctx, send, probeKey) },
		permissions: func(ctx context.Context) error { return checkPermissions(ctx, client, probeKey) },
	}
	b := newBatcher(s.Name, budget, send, newGuard(s.Name, budget, notices, questions))
	l.shards = append(l.shards, &shard{Shard: s, client: client, batcher: b})
	l.seeds = append(l.seeds, hash(s.Identity))
}

// topology is what the shards are now.
func (m *RedisShardManager) topology() topology {
	if m.cluster != nil {
		return m.cluster
	}
	return m.list.Load()
}

// GetClient returns the client of the shard that owns userID. For a bucket that is the text of its key,
// domain.BucketKey, which in Redis stands between the braces: "default:ip=192.0.2.7" is kept under
// "velocity:{default:ip=192.0.2.7}". In a cluster it is the owner as far as is known, which may take a round trip to
// find out the first time; a command for a key that has moved is redirected, and following that is the caller's.
func (m *RedisShardManager) GetClient(userID string) *redis.Client {
	return m.topology().clientFor(userID)
}

// Shards describes the shards, in the configured order. Behind Sentinel there is one, at the addresses of the
// sentinels; of a Cluster these are the seeds.
func (m *RedisShardManager) Shards() []Shard { return m.topology().describe() }

// Placement is a short text that differs where clients are placed differently: nodes that share shards must agree
// on it. It is empty where a Cluster or Sentinel places them.
func (m *RedisShardManager) Placement() string {
	list := m.list.Load()
	if list == nil || len(list.shards) == 1 {
		return ""
	}
	identities := []string{string(list.strategy)}
	for _, s := range list.shards {
		identities = append(identities, s.Identity)
	}
	if list.strategy == StrategyRendezvous {
		slices.Sort(identities) // their order places nobody
	}
	return strconv.FormatUint(hash(strings.Join(identities, "\n")), 16)
}

// Close closes every client. Calls that are under way fail.
func (m *RedisShardManager) Close() error { return m.topology().Close() }

var _ topology = (*shardList)(nil)

func (l *shardList) owner(text string) *shard {
	return l.shards[l.strategy.place(text, l.seeds)]
}

// batcherFor implements topology.
func (l *shardList) batcherFor(text string) *batcher { return l.owner(text).batcher }

// clientFor implements topology.
func (l *shardList) clientFor(text string) *redis.Client { return l.owner(text).client }

// stats implements topology.
func (l *shardList) stats() []ports.ShardStats {
	out := make([]ports.ShardStats, len(l.shards))
	for i, s := range l.shards {
		out[i] = s.batcher.stats(s.Name)
	}
	return out
}

// describe implements topology.
func (l *shardList) describe() []Shard {
	out := make([]Shard, len(l.shards))
	for i, s := range l.shards {
		out[i] = s.Shard
	}
	return out
}

// probes implements topology. Any shard has room for the probe's key.
func (l *shardList) probes(context.Context) []probe {
	out := make([]probe, len(l.shards))
	for i, s := range l.shards {
		out[i] = probe{name: s.Name, key: probeKey, batcher: s.batcher}
	}
	return out
}

// Close implements topology.
func (l *shardList) Close() error {
	var errs []error
	for _, s := range l.shards {
		s.batcher.guard.stop()
		errs = append(errs, s.client.Close())
	}
	for _, s := range l.shards {
		s.batcher.guard.wait()
	}
	return errors.Join(errs...)
}
