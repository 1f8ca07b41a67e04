package redisstore

import (
	"context"
	"sync"
	"time"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// probeKey can be no client's: theirs hold a colon.
const probeKey domain.BucketKey = "probe"

// CheckHealth implements ports.HealthChecker. It runs the script itself, on a key of its own that expires at once:
// a server can answer PING and yet refuse or delay every script that writes (a full or read-only server, CLIENT
// PAUSE WRITE, an ACL that lacks a command).
func (s *Store) CheckHealth(ctx context.Context) []ports.ShardHealth {
	list := s.manager.list.Load()
	health := make([]ports.ShardHealth, len(list.shards))
	probe := []ports.TakeRequest{{Op: domain.OpTake, Key: probeKey, Limits: probeLimits(), Cost: 1}}
	var wg sync.WaitGroup
	for i, owner := range list.shards {
		wg.Go(func() {
			var result [1]ports.TakeResult
			owner.batcher.do(ctx, probe, theOnly, result[:])
			health[i] = ports.ShardHealth{Name: owner.Name, Err: result[0].Err}
		})
	}
	wg.Wait()
	return health
}

// probeLimits refills within a microsecond, so that a probe leaves nothing behind.
func probeLimits() []domain.Limit {
	l, err := domain.NewLimit("probe", 1, 1, time.Microsecond)
	if err != nil {
		panic("redisstore: the probe's limit: " + err.Error())
	}
	return []domain.Limit{l}
}
