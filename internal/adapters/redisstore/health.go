package redisstore

import (
	"cmp"
	"context"
	"sync"

	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// CheckHealth implements ports.HealthChecker. It runs the script itself, on a key of its own that expires at once:
// a server can answer PING and yet refuse or delay every script that writes (a full or read-only server, CLIENT
// PAUSE WRITE, an ACL that lacks a command).
func (s *Store) CheckHealth(ctx context.Context) []ports.ShardHealth {
	probes, limits := s.manager.topology().probes(ctx), probeLimits()
	health := make([]ports.ShardHealth, len(probes))
	var wg sync.WaitGroup
	for i, p := range probes {
		health[i] = ports.ShardHealth{Name: p.name, Err: p.err}
		if p.err != nil {
			continue
		}
		wg.Go(func() {
			// One limit and several are read by different commands.
			reqs := []ports.TakeRequest{
				{Op: domain.OpTake, Key: p.key, Limits: limits[:1], Cost: 1},
				{Op: domain.OpTake, Key: p.key, Limits: limits, Cost: 1},
			}
			var results [2]ports.TakeResult
			p.batcher.do(ctx, reqs, []int{0, 1}, results[:])
			health[i].Err = cmp.Or(results[0].Err, results[1].Err)
		})
	}
	wg.Wait()
	return health
}
