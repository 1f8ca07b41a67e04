package redisstore

import (
	"context"
	"slices"
	"sync"

	"github.com/velocity-limiter/velocity/internal/domain"
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

// New makes a store. It does not connect: servers that are down when a process starts must not keep it from
// starting. The error is one of the configuration, and reports all that is wrong with it.
func New(cfg Config) (*Store, error) { return newStore(cfg, newScript(takeSource)) }

func newStore(cfg Config, s *script) (*Store, error) {
	manager, err := newShardManager(cfg, s)
	if err != nil {
		return nil, err
	}
	return &Store{manager: manager}, nil
}

// Manager returns the shards of the store; Close closes them.
func (s *Store) Manager() *RedisShardManager { return s.manager }

// Close closes the connections. Calls that are under way fail.
func (s *Store) Close() error { return s.manager.Close() }

// theOnly are the slots of a call of one request.
var theOnly = []int{0}

// TakeMany implements ports.BucketStore. Each shard is asked concurrently, for at most 128 groups at a time, so
// that equal keys keep their order. The budget is each batch's own: a call of many groups may take several.
func (s *Store) TakeMany(ctx context.Context, reqs []ports.TakeRequest, results []ports.TakeResult) {
	topology := s.manager.topology()
	if len(reqs) == 1 {
		if err := reqs[0].Check(); err != nil {
			fail(&results[0], err)
			return
		}
		topology.batcherFor(string(reqs[0].Key)).do(ctx, reqs, theOnly, results)
		return
	}
	parts := sortByOwner(topology, reqs, results)
	if len(parts) == 0 {
		return
	}
	var wg sync.WaitGroup
	for _, p := range parts[1:] {
		wg.Go(func() { p.batcher.do(ctx, reqs, p.slots, results) })
	}
	parts[0].batcher.do(ctx, reqs, parts[0].slots, results) // here: this goroutine would only wait
	wg.Wait()
}

// part is what one call asks of one server.
type part struct {
	batcher *batcher
	slots   []int
}

// sortByOwner refuses the requests that cannot be carried out, and sorts the others by who decides them.
func sortByOwner(topology topology, reqs []ports.TakeRequest, results []ports.TakeResult) []part {
	var parts []part
	for i := range reqs {
		if err := reqs[i].Check(); err != nil {
			fail(&results[i], err)
			continue
		}
		b := topology.batcherFor(string(reqs[i].Key))
		at := slices.IndexFunc(parts, func(p part) bool { return p.batcher == b })
		if at < 0 {
			at, parts = len(parts), append(parts, part{batcher: b, slots: make([]int, 0, len(reqs)-i)})
		}
		parts[at].slots = append(parts[at].slots, i)
	}
	return parts
}

// Stats implements ports.StatsSource.
func (s *Store) Stats() []ports.ShardStats { return s.manager.topology().stats() }

// fail makes a slot an error, keeping its memory.
func fail(slot *ports.TakeResult, err error) {
	*slot = ports.TakeResult{Err: err, Store: domain.StoreRedis, Buckets: slot.Buckets[:0]}
}
