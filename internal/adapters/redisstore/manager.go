package redisstore

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// RedisShardManager holds one client per shard and maps every user to one of them, always the same as long as the
// list of shards does not change. It connects to nothing until a client is used. Safe for concurrent use.
type RedisShardManager struct {
	// list is immutable and swapped whole, so that a decision sees one list from beginning to end.
	list atomic.Pointer[shardList]
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
	addresses, err := parseAddresses(cfg.Addrs)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.tlsConfig()
	if err != nil {
		return nil, err
	}
	list := &shardList{strategy: cfg.Strategy}
	for i, a := range addresses {
		owner := &shard{
			Shard: Shard{
				Name:     "shard-" + strconv.Itoa(i),
				Identity: a.identity(),
				Addr:     a.hostPort,
			},
			client: redis.NewClient(cfg.clientOptions(a.hostPort, tlsConfig)),
		}
		owner.batcher = &batcher{
			name:   owner.Name,
			budget: cfg.TakeTimeout,
			send: func(ctx context.Context, groups []*group) error {
				return script.decide(ctx, owner.client, owner.Name, groups)
			},
		}
		list.shards = append(list.shards, owner)
		list.seeds = append(list.seeds, hash(a.identity()))
	}
	m := &RedisShardManager{}
	m.list.Store(list)
	return m, nil
}

// GetClient returns the client of the shard that owns userID. For a bucket that is the text of its key,
// domain.BucketKey, which in Redis stands between the braces: "default:ip=192.0.2.7" is kept under
// "velocity:{default:ip=192.0.2.7}".
func (m *RedisShardManager) GetClient(userID string) *redis.Client {
	return m.list.Load().owner(userID).client
}

// Shards describes the shards, in the configured order.
func (m *RedisShardManager) Shards() []Shard {
	list := m.list.Load()
	out := make([]Shard, len(list.shards))
	for i, s := range list.shards {
		out[i] = s.Shard
	}
	return out
}

// Close closes every client. Calls that are under way fail.
func (m *RedisShardManager) Close() error {
	var errs []error
	for _, s := range m.list.Load().shards {
		errs = append(errs, s.client.Close())
	}
	return errors.Join(errs...)
}

func (l *shardList) owner(text string) *shard {
	return l.shards[l.strategy.place(text, l.seeds)]
}
