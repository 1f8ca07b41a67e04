// Package redisstore keeps buckets in Redis 7.0 or newer, or Valkey, on one server, on several shards, in a Redis
// Cluster or behind Sentinel.
//
// Every decision is made by one run of one Lua script (script/take.lua) on the server that owns the client, by that
// server's clock: refill, comparison and debit are one atomic step, so any number of processes may share the
// servers. [RedisShardManager] maps each client to its shard, always the same one.
//
// A request that may have reached a server is never sent again: a lost answer may hide a debit, and a second request
// would be a second debit. Such a failure is reported at once, wrapping ports.ErrUnavailable, and the caller's failure
// policy decides. There are four exceptions, in which nothing has run: a server that does not know the script is sent its
// source, redirects of a Cluster's nodes are followed, a request is sent again while its slot moves from one node to another
// and neither has all of its keys, and a group is sent again if the server's clock was in another period of its quota than was
// assumed. A client of the caller's may be set to retry; the commands that decide tell go-redis not to.
//
// A server that is down delays only its own clients, and at most by the budget. The package keeps no state of its own: a
// bucket that Redis forgets (a restart without persistence, an eviction) is full again.
//
// Equal requests of one key in one batch are one group of the script, which says how many of them pass; see script.Batch. So a
// limit that all clients share costs a server one group for each batch, and not for each request.
//
// The packages below, from the server up: failure classifies errors, conn makes clients, script encodes decisions and
// decodes replies, batch sends them past a circuit breaker, and cluster finds the nodes of a Redis Cluster.
package redisstore

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/batch"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore/script"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// Store keeps buckets in the shards of a [RedisShardManager]. Make it with [New]; safe for concurrent use.
type Store struct {
	manager *RedisShardManager
}

var (
	_ ports.BucketStore   = (*Store)(nil)
	_ ports.HealthChecker = (*Store)(nil)
	_ ports.StatsSource   = (*Store)(nil)
)

// New makes a store. It does not connect: servers that are down must not keep a process from starting. The error reports all
// that is wrong with the configuration.
func New(cfg Config) (*Store, error) { return newStore(cfg, script.New(script.Source)) }

func newStore(cfg Config, take *script.Script) (*Store, error) {
	manager, err := newShardManager(cfg, take)
	if err != nil {
		return nil, err
	}
	return &Store{manager: manager}, nil
}

// Manager returns the shards of the store; Close closes them.
func (s *Store) Manager() *RedisShardManager { return s.manager }

// errClosed is the error of all calls after Close: a client of the caller's is still open.
var errClosed = fmt.Errorf("%w: %w: %w", ports.ErrUnavailable, ports.ErrNotRun, redis.ErrClosed)

// Close closes the connections, and calls that are under way fail. It does not close a client of the caller's; calls that
// are under way there end as usual. Calls after Close fail.
func (s *Store) Close() error { return s.manager.Close() }

// TakeMany implements ports.BucketStore. It asks the shards concurrently, each for at most script.MaxGroups groups at a time,
// so that equal keys keep their order. Each batch has the whole budget, so a call of many groups may take several budgets.
func (s *Store) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	if s.manager.closed.Load() {
		for i := range results {
			batch.Fail(&results[i], errClosed)
		}
		return
	}
	topology := s.manager.topology
	if only := onlyServer(topology, reqs); only != nil {
		only.Do(ctx, reqs, firstIndexes[:len(reqs)], results)
		return
	}
	parts := splitByServer(topology, reqs, results)
	if len(parts) == 0 {
		return
	}
	var wg sync.WaitGroup
	for _, p := range parts[1:] {
		wg.Go(func() { p.batcher.Do(ctx, reqs, p.indexes, results) })
	}
	parts[0].batcher.Do(ctx, reqs, parts[0].indexes, results) // in this goroutine, which would only wait
	wg.Wait()
}

// firstIndexes are those of a call whose requests all go to one server.
var firstIndexes = func() (indexes [script.MaxGroups]int) {
	for i := range indexes {
		indexes[i] = i
	}
	return indexes
}()

// onlyServer returns the server of all requests, or nil if there are several, one of the requests cannot be carried out, or there are
// more than firstIndexes.
func onlyServer(topology topology, reqs []ports.TakeRequest) (only *batch.Batcher) {
	if len(reqs) > len(firstIndexes) {
		return nil
	}
	for i := range reqs {
		if reqs[i].Check() != nil {
			return nil
		}
		b := topology.BatcherFor(string(reqs[i].Key))
		if i > 0 && b != only {
			return nil
		}
		only = b
	}
	return only
}

// part is the requests of one call to one server.
type part struct {
	batcher *batch.Batcher
	indexes []int
}

// splitByServer refuses the requests that cannot be carried out, and sorts the others by server.
func splitByServer(topology topology, reqs []ports.TakeRequest, results []ports.TakeResult) []part {
	var parts []part
	for i := range reqs {
		if err := reqs[i].Check(); err != nil {
			batch.Fail(&results[i], err)
			continue
		}
		b := topology.BatcherFor(string(reqs[i].Key))
		at := slices.IndexFunc(parts, func(p part) bool { return p.batcher == b })
		if at < 0 {
			at, parts = len(parts), append(parts, part{batcher: b, indexes: make([]int, 0, len(reqs)-i)})
		}
		parts[at].indexes = append(parts[at].indexes, i)
	}
	return parts
}

// Stats implements ports.StatsSource.
func (s *Store) Stats() []ports.ShardStats { return s.manager.topology.Stats() }

// ErrPermissions says that the user of the settings lacks permissions that this program needs.
var ErrPermissions = script.ErrPermissions

// CheckHealth implements ports.HealthChecker. It has every shard decide takes on a key that expires at once.
func (s *Store) CheckHealth(ctx context.Context) []ports.ShardHealth {
	return s.checkAll(ctx, (*batch.Batcher).CheckHealth)
}

// CheckPermissions asks every shard whether its user may run all that decisions, and what operators do with buckets,
// need. It decides nothing. An Err that wraps ErrPermissions names what the user lacks.
func (s *Store) CheckPermissions(ctx context.Context) []ports.ShardHealth {
	return s.checkAll(ctx, (*batch.Batcher).CheckPermissions)
}

// checkAll checks every shard at once.
func (s *Store) checkAll(
	ctx context.Context, check func(*batch.Batcher, context.Context, clientkey.BucketKey) error,
) []ports.ShardHealth {
	if s.manager.closed.Load() {
		return s.closedHealth()
	}
	targets := s.manager.topology.Targets(ctx)
	health := make([]ports.ShardHealth, len(targets))
	var wg sync.WaitGroup
	for i, t := range targets {
		health[i] = ports.ShardHealth{Name: t.Name, Err: t.Err}
		if t.Err == nil {
			wg.Go(func() { health[i].Err = check(t.Batcher, ctx, t.Key) })
		}
	}
	wg.Wait()
	return health
}

func (s *Store) closedHealth() []ports.ShardHealth {
	var health []ports.ShardHealth
	for _, shard := range s.Stats() {
		health = append(health, ports.ShardHealth{Name: shard.Name, Err: errClosed})
	}
	return health
}
