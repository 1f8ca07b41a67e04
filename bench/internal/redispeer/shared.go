package redispeer

import (
	"context"
	"time"

	"github.com/velocity-limiter/velocity/bench/internal/peer"
	"github.com/velocity-limiter/velocity/bench/internal/rule"
	"github.com/velocity-limiter/velocity/internal/adapters/redisstore"
	"github.com/velocity-limiter/velocity/internal/domain"
	"github.com/velocity-limiter/velocity/internal/domain/clientkey"
	"github.com/velocity-limiter/velocity/internal/ports"
)

// OpenVelocityShared opens Velocity's store on one server. A take asks for the client under its limit, and in the same call
// for the owner of the client under the shared limit. It allows what both allow.
func OpenVelocityShared(addr string, client, shared peer.Limit, owner func(client string) string) (*peer.Limiter, error) {
	own, err := rule.All([]peer.Limit{client})
	if err != nil {
		return nil, err
	}
	common, err := rule.All([]peer.Limit{shared})
	if err != nil {
		return nil, err
	}
	cfg := redisstore.DefaultConfig(addr)
	cfg.TakeTimeout = 5 * time.Second
	store, err := redisstore.New(cfg)
	if err != nil {
		return nil, err
	}
	return &peer.Limiter{Close: store.Close, NewTake: func() peer.Take {
		reqs := []ports.TakeRequest{{Op: domain.OpTake, Limits: own, Cost: 1}, {Op: domain.OpTake, Limits: common, Cost: 1}}
		results := make([]ports.TakeResult, len(reqs))
		return func(ctx context.Context, name string) (bool, error) {
			reqs[0].Key, reqs[1].Key = BucketKey(name), sharedKey(owner(name))
			store.TakeMany(ctx, reqs, results)
			allowed := true
			for i := range results {
				r := &results[i]
				if r.Err != nil {
					return false, r.Err
				}
				reqs[i].Limits[0].Status(r.States[0], r.Now, 1, 0, r.Verdict == domain.Allowed)
				allowed = allowed && r.Verdict == domain.Allowed
			}
			return allowed, nil
		}
	}}, nil
}

func sharedKey(owner string) clientkey.BucketKey {
	return clientkey.NewBucketKey("shared", clientkey.Source{Kind: clientkey.SourceHeader, Name: "x-tenant"}, owner)
}
