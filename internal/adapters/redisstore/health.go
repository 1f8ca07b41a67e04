package redisstore

import (
	"context"
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
	reqs := make([]ports.TakeRequest, len(list.shards))
	results := make([]ports.TakeResult, len(list.shards))
	lanes := make([]*lane, len(list.shards))
	for i, owner := range list.shards {
		reqs[i] = ports.TakeRequest{Op: domain.OpTake, Key: probeKey, Limits: probeLimits(), Cost: 1}
		lanes[i] = s.lane(owner, reqs, []int{i})
	}
	s.dispatch(ctx, lanes, reqs, results)
	health := make([]ports.ShardHealth, len(list.shards))
	for i, owner := range list.shards {
		health[i] = ports.ShardHealth{Name: owner.Name, Err: results[i].Err}
	}
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
